// Vue, with a render function. In a template it is the same: <parley-chat ref="chat" @parley-message="..." />,
// once the compiler knows that it is no component: compilerOptions.isCustomElement = (tag) => tag === "parley-chat".

import { createApp, h, ref } from "vue";

const Shop = {
  setup() {
    const chat = ref(null);
    const said = ref("");
    const ask = async () => {
      await chat.value.open();
      await chat.value.send("delivery");
    };
    return () =>
      h("main", [
        h("h1", "A shop"),
        h("p", ["Chairs, tables and a chat in the corner. ", h("button", { type: "button", onClick: ask }, "Ask about this chair")]),
        h("p", { role: "status" }, said.value && `The last message: ${said.value}`),
        h("parley-chat", {
          ref: chat,
          heading: "Ask the shop",
          "onParley-message": (event) => (said.value = event.detail.message.text),
        }),
      ]);
  },
};

createApp(Shop).mount("#app");
