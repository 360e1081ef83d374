// What `make js` holds the package to, with gzip; the files for a CDN have their limits in scripts/cdn.mjs.
/** As ES modules: esbuild splits off what is imported late in no other form. */
const modules = (config) => ({ ...config, format: "esm" });

export default [
  {
    name: "what a bundler makes of import { Parley }",
    path: "dist/index.js",
    import: "{ Parley }",
    ignore: ["./remote.js"],
    limit: "12288 B",
    gzip: true,
    brotli: false,
    modifyEsbuildConfig: modules,
  },
  {
    name: "what the first call over REST loads",
    path: "dist/remote.js",
    ignore: ["./client.js"],
    limit: "3000 B",
    gzip: true,
    brotli: false,
    modifyEsbuildConfig: modules,
  },
];
