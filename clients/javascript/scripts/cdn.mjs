// Writes what a page without a build loads, for a <script type="module">: dist/parley-client.min.js, which loads its REST
// side from beside it at the first call over REST, and has no classes for what the server refuses (`code` tells that);
// dist/parley-client.all.min.js is all of it in one file. Fails where one is larger than its limit.
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { minify } from "terser";

const HERE = fileURLToPath(new URL("..", import.meta.url));
/** Bytes, with gzip. */
const LIMITS = {
  "parley-client.min.js": 12 * 1024,
  "parley-client.rest.min.js": 3.75 * 1024,
  "parley-client.all.min.js": 16 * 1024,
};
const COMPRESS = {
  module: true,
  passes: 3,
  pure_getters: true,
  unsafe_arrows: true,
  unsafe_methods: true,
  unsafe: true,
  lhs_constants: false,
};
// Between our own modules only: no application, frame or runtime says these names, so they may become letters.
const OWN = (
  "abandon acked chats commands disown doubtful getToken hail hold impatient isLive isOnline " +
  "isRenewable isWanted orphan perform probe progress pump receive sawEnd tick tries waiter wakeup watchers " +
  "withdraw withinMs"
).split(" ");
const nameCache = {}; // a name becomes the same letter in every file

for (const path of ["surface.json", "src/wire.ts"]) {
  const text = readFileSync(HERE + path, "utf8");
  for (const name of OWN.filter((each) => new RegExp(`["\\s]${each}["?:(]`).test(text))) {
    throw new Error(`${name} of scripts/cdn.mjs is in ${path}, so it may not be shortened`);
  }
}

/** Write a file; what it imports by a name in `beside` is in the file of that name next to it. */
async function write(file, contents, beside = {}) {
  const elsewhere = {
    name: "elsewhere",
    setup: (building) =>
      building.onResolve({ filter: /^\.\// }, ({ path }) =>
        beside[path] ? { path: `./${beside[path]}`, external: true } : undefined,
      ),
  };
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: `${HERE}src`, loader: "ts" },
    absWorkingDir: HERE,
    bundle: true,
    minifySyntax: true,
    format: "esm",
    platform: "browser",
    target: "es2022",
    legalComments: "none",
    logLevel: "warning",
    write: false,
    plugins: [elsewhere],
  });
  const { code } = await minify(outputFiles[0].text, {
    module: true,
    ecma: 2022,
    compress: COMPRESS,
    mangle: { properties: { regex: new RegExp(`^(${OWN.join("|")})$`) } },
    nameCache,
  });
  writeFileSync(`${HERE}dist/${file}`, code);
  const size = gzipSync(code, { level: 9 }).length;
  console.log(`${file}: ${size} bytes gzip, of ${LIMITS[file]}`);
  if (size > LIMITS[file]) {
    throw new Error(`${file} is too large`);
  }
}

const surface = JSON.parse(readFileSync(`${HERE}surface.json`, "utf8"))["parley-client"];
const isRefusal = (name) => name === "Refused" || (name in surface && isRefusal(surface[name].extends));
const names = Object.keys(surface).filter(
  (name) => ["class", "function", "constant"].includes(surface[name].kind) && !isRefusal(name),
);
await write("parley-client.min.js", `export { ${names} } from "./index.js"`, {
  "./remote.js": "parley-client.rest.min.js",
});
await write("parley-client.rest.min.js", 'export { createRemote } from "./remote.js"', {
  "./errors.js": "parley-client.min.js", // so that an error of either is of the same classes
});
await write("parley-client.all.min.js", 'export * from "./index.js"');
