import { defineConfig } from "tsdown";

export default defineConfig({
  entry: ["src/index.ts", "src/node.ts", "src/socket.ts", "src/socket-node.ts"],
  format: ["esm", "cjs"],
  platform: "neutral",
  target: "es2022",
  dts: true,
  sourcemap: false,
  // what a page's own minifier does not find; names and lines stay, so that a stack can be read
  minify: { compress: true, mangle: false, codegen: { removeWhitespace: false } },
  external: [/^node:/, "#socket"],
  hash: false,
  fixedExtension: false,
});
