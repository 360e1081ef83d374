// A page steers the widget by methods, and hears of it by events.

const chat = document.querySelector("parley-chat");

document.getElementById("ask").onclick = async () => {
  await chat.open();
  await chat.send("delivery");
};

chat.addEventListener("parley-message", ({ detail }) => {
  document.getElementById("said").textContent = `The last message: ${detail.message.text}`;
});
