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
  // one file for all but what REST needs: a bundler that splits puts what both need into one of its own, and a page
  // would load two
  outputOptions: {
    codeSplitting: {
      groups: [{ name: "client", test: /src\/(?!node|file-outbox|socket|remote|rest|inbox)\w+\.ts$/ }],
    },
  },
  hash: false,
  fixedExtension: false,
});
