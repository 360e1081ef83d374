// The two lines, with this server's own address in them.

document.getElementById("lines").textContent = [
  `<script type="module" src="${location.origin}/widget.js"></script>`,
  "<parley-chat></parley-chat>",
].join("\n");
