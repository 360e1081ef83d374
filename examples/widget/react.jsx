// React 19 passes attributes to an element, and listens to its events by `on` and the event's name.

import { useRef, useState } from "react";
import { createRoot } from "react-dom/client";

function Shop() {
  const chat = useRef(null);
  const [said, setSaid] = useState("");
  const ask = async () => {
    await chat.current.open();
    await chat.current.send("delivery");
  };
  return (
    <main>
      <h1>A shop</h1>
      <p>
        Chairs, tables and a chat in the corner.{" "}
        <button type="button" onClick={ask}>
          Ask about this chair
        </button>
      </p>
      <p role="status">{said && `The last message: ${said}`}</p>
      <parley-chat
        ref={chat}
        heading="Ask the shop"
        onparley-message={(event) => setSaid(event.detail.message.text)}
      />
    </main>
  );
}

createRoot(document.getElementById("app")).render(<Shop />);
