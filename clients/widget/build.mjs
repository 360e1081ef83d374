// Builds the widget into server/widget, which is committed: `npm run build`, and `--check` to compare only.
//
// The same sources give the same bytes: esbuild's version is exact, nothing of the machine gets in, and the chat
// part's name is a hash of its contents. `files.json` says what was built of what, so that a clone without Node
// can tell too whether the committed files are those of its sources.

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build, version as esbuildVersion, transform } from "esbuild";

const HERE = dirname(fileURLToPath(import.meta.url));
const ROOT = join(HERE, "..", "..");
const SDK = join(HERE, "..", "javascript", "src");
const OUT = join(ROOT, "server", "widget");
const LIMITS = { widget: 5 * 1024, chat: 35 * 1024, words: 8 * 1024 };

/** Style sheets become texts, as small as they can be. */
const styles = {
  name: "styles",
  setup(building) {
    building.onLoad({ filter: /\.css$/ }, async ({ path }) => {
      const { code } = await transform(readFileSync(path, "utf8"), {
        loader: "css",
        minify: true,
        target: "chrome123",
      });
      return { contents: code.trim(), loader: "text" };
    });
  },
};

const sources = new Set(["clients/widget/build.mjs"]);

async function bundle(entry, define) {
  const { outputFiles, metafile } = await build({
    absWorkingDir: ROOT,
    entryPoints: [join(HERE, "src", entry)],
    bundle: true,
    format: "esm",
    platform: "browser",
    target: "es2022",
    minify: true,
    legalComments: "none",
    charset: "utf8",
    write: false,
    metafile: true,
    define,
    plugins: [styles],
    conditions: ["browser"],
    alias: { "parley-client": join(SDK, "index.ts"), "#socket": join(SDK, "socket.ts") },
    tsconfigRaw: {
      compilerOptions: { target: "ES2022", useDefineForClassFields: true, verbatimModuleSyntax: true },
    },
  });
  for (const path of Object.keys(metafile.inputs))
    sources.add(relative(ROOT, join(ROOT, path.replace(/^styles:/, ""))));
  return outputFiles[0].contents;
}

const named = (part, bytes) => `${part}-${sha256(bytes).slice(0, 12)}.js`;
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

async function built() {
  const { version } = JSON.parse(readFileSync(join(HERE, "package.json"), "utf8"));
  const words = await bundle("chat/others.ts", {});
  const others = named("words", words);
  const chat = await bundle("chat/chat.ts", {
    VERSION: JSON.stringify(version),
    OTHERS: JSON.stringify(`./${others}`),
  });
  const name = named("chat", chat);
  const launcher = await bundle("launcher/element.ts", { CHAT: JSON.stringify(`./widget/${name}`) });
  const files = { "widget.js": launcher, [name]: chat, [others]: words };
  const told = {
    esbuild: esbuildVersion,
    parts: { chat: name, words: others },
    sources: Object.fromEntries(
      [...sources].sort().map((path) => [path.replaceAll("\\", "/"), sha256(readFileSync(join(ROOT, path)))]),
    ),
  };
  files["files.json"] = Buffer.from(`${JSON.stringify(told, null, 2)}\n`);
  return files;
}

function complain(line) {
  console.error(line);
  process.exitCode = 1;
}

const files = await built();
for (const [name, bytes] of Object.entries(files)) {
  const limit = LIMITS[name.split(/[-.]/)[0]] ?? Number.POSITIVE_INFINITY;
  const size = gzipSync(bytes, { level: 9 }).length;
  if (name.endsWith(".js")) console.log(`${name}: ${size} bytes gzip, of ${limit}`);
  if (size > limit) complain(`${name} is too large.`);
}
const ours = (name) => /^(widget|(chat|words)-[0-9a-f]+)\.js$|^files\.json$/.test(name);
if (process.argv.includes("--check")) {
  const there = existsSync(OUT) ? readdirSync(OUT).filter(ours) : [];
  for (const name of new Set([...there, ...Object.keys(files)])) {
    const same =
      files[name] &&
      there.includes(name) &&
      Buffer.compare(readFileSync(join(OUT, name)), Buffer.from(files[name])) === 0;
    if (!same) complain(`server/widget/${name} is not what its sources build: run \`make widget\`.`);
  }
} else {
  mkdirSync(OUT, { recursive: true });
  for (const name of readdirSync(OUT).filter(ours)) rmSync(join(OUT, name));
  for (const [name, bytes] of Object.entries(files)) writeFileSync(join(OUT, name), bytes);
}
