// A field for each custom property of the widget; docs/reference/widget.md says what they do.

const COLOURS = {
  accent: "#2457c5", "on-accent": "#ffffff", background: "#ffffff", surface: "#f3f5f9", text: "#1a2030", muted: "#566078",
  border: "#cdd4e0", control: "#7a859c", "user-background": "#2457c5", "user-text": "#ffffff", "bot-background": "#e9edf5",
  "bot-text": "#1a2030", error: "#a1201f", "error-background": "#fdecec", success: "#1d7a3e", warning: "#a35d00", badge: "#b3261e", "on-badge": "#ffffff",
};
const TEXTS = {
  radius: "1rem", font: "system-ui, sans-serif", "font-size": "1rem", width: "24rem", height: "40rem", "offset-x": "1.25rem", "offset-y": "1.25rem",
  "z-index": "2147483000", shadow: "0 0.5rem 2rem rgb(0 0 0 / 0.25)",
};

const chat = document.querySelector("parley-chat");
const chosen = new Map();

function choose(name, value) {
  chosen.set(name, value);
  chat.style.setProperty(name, value);
  const lines = [...chosen].map(([each, is]) => `  ${each}: ${is};`);
  document.getElementById("css").textContent = ["parley-chat {", ...lines, "}"].join("\n");
}

function field(name, type, value) {
  const input = Object.assign(document.createElement("input"), { type, value, name: `--parley-${name}` });
  input.oninput = () => choose(input.name, input.value);
  const label = document.createElement("label");
  label.append(input.name, input);
  return label;
}

document.getElementById("properties").append(
  ...Object.entries(COLOURS).map(([name, value]) => field(name, "color", value)),
  ...Object.entries(TEXTS).map(([name, value]) => field(name, "text", value)),
);
document.getElementById("scheme").onchange = ({ target }) =>
  target.value ? chat.setAttribute("theme", target.value) : chat.removeAttribute("theme");
