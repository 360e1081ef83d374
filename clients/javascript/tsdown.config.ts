import { defineConfig } from "tsdown";

export default defineConfig({
  entry: ["src/index.ts", "src/node.ts", "src/socket.ts", "src/socket-node.ts"],
  format: ["esm", "cjs"],
  platform: "neutral",
  target: "es2022",
  dts: true,
  sourcemap: false,
  external: [/^node:/, "#socket"],
  hash: false,
  fixedExtension: false,
});
