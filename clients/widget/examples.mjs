// Bundles the React and Vue pages of examples/widget: `npm --prefix clients run examples --workspace parley-widget`.

import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const HERE = dirname(fileURLToPath(import.meta.url));
const EXAMPLES = join(HERE, "..", "..", "examples", "widget");

await build({
  entryPoints: [join(EXAMPLES, "react.jsx"), join(EXAMPLES, "vue.js")],
  bundle: true,
  format: "esm",
  minify: true,
  jsx: "automatic",
  alias: { vue: "vue/dist/vue.runtime.esm-bundler.js" }, // no compiler of templates, which a strict policy forbids
  define: {
    "process.env.NODE_ENV": '"production"',
    __VUE_OPTIONS_API__: "false",
    __VUE_PROD_DEVTOOLS__: "false",
    __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: "false",
  },
  nodePaths: [join(HERE, "..", "node_modules")],
  outdir: join(EXAMPLES, "built"),
});
