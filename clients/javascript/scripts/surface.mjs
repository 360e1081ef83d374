// Writes surface.json, the public surface with its signatures and comments, from the types; with --check only tells
// whether it is current. docs/javascript.py makes the reference and the table of parity from it, without Node.
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const HERE = fileURLToPath(new URL("..", import.meta.url));
const TARGET = `${HERE}surface.json`;
const ENTRIES = { "parley-client": "src/index.ts", "parley-client/node": "src/node.ts" };

const { config } = ts.readConfigFile(`${HERE}tsconfig.json`, ts.sys.readFile);
const { options } = ts.parseJsonConfigFileContent(config, ts.sys, HERE);
const program = ts.createProgram(
  Object.values(ENTRIES).map((path) => HERE + path),
  options,
);
const checker = program.getTypeChecker();
const FORMAT = ts.TypeFormatFlags.NoTruncation | ts.TypeFormatFlags.UseAliasDefinedOutsideCurrentScope;

const doc = (symbol) => {
  const text = ts.displayPartsToString(symbol.getDocumentationComment(checker)).trim();
  const tags = symbol
    .getJsDocTags(checker)
    .map(({ name, text: parts }) => [name, ts.displayPartsToString(parts)]);
  return { doc: text, tags: tags.filter(([name]) => ["param", "returns", "throws"].includes(name)) };
};
const isHidden = (symbol) =>
  symbol.name.startsWith("#") ||
  symbol.name.startsWith("__#") ||
  symbol.getJsDocTags(checker).some(({ name }) => name === "internal");
const plain = (symbol) => (symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol);
const text = (type) => checker.typeToString(type, undefined, FORMAT).replaceAll(/import\("[^"]*"\)\./g, "");
const fields = (type) =>
  checker
    .getPropertiesOfType(checker.getNonNullableType(type))
    .filter((each) =>
      each.declarations?.some(({ parent }) => !parent.getSourceFile().fileName.includes("/lib.")),
    )
    .map((each) => each.name)
    .sort();

/** Return what a function takes; of an object of options the names, too. */
function parameters(signature) {
  return signature.getParameters().map((symbol) => {
    const declaration = symbol.valueDeclaration;
    const type = checker.getTypeOfSymbolAtLocation(symbol, declaration);
    const isOptions = /options/i.test(symbol.name);
    return {
      name: symbol.name,
      type: declaration.type?.getText().replaceAll(/\s+/g, " ") ?? text(type),
      optional: Boolean(declaration.questionToken || declaration.initializer),
      ...(isOptions ? { options: fields(type) } : {}),
    };
  });
}

function member(symbol) {
  const declaration = symbol.valueDeclaration ?? symbol.declarations?.[0]; // of a mapped type there is none
  const type = checker.getTypeOfSymbol(symbol);
  const [signature] = symbol.flags & ts.SymbolFlags.Method ? type.getCallSignatures() : [];
  const shown = declaration?.type?.getText().replaceAll(/\s+/g, " ") ?? text(type);
  return {
    name: symbol.name,
    ...doc(symbol),
    ...(signature
      ? {
          parameters: parameters(signature),
          returns: shown === text(type) ? text(signature.getReturnType()) : shown,
        }
      : { type: shown }),
  };
}

function exported(symbol) {
  const real = plain(symbol);
  const declaration = real.declarations[0];
  if (ts.isSourceFile(declaration)) {
    return { kind: "namespace", ...doc(real), exports: surface(real) };
  }
  if (real.flags & ts.SymbolFlags.Class) {
    const type = checker.getDeclaredTypeOfSymbol(real);
    const statics = checker.getTypeOfSymbolAtLocation(real, declaration);
    const [make] = statics.getConstructSignatures();
    const own = checker
      .getPropertiesOfType(type)
      .filter((each) => plain(each).parent === real && !isHidden(each));
    const base = declaration.heritageClauses?.find(({ token }) => token === ts.SyntaxKind.ExtendsKeyword);
    const hidden = make.getJsDocTags().some(({ name }) => name === "internal");
    const code = checker.getPropertyOfType(statics, "code");
    return {
      kind: "class",
      ...doc(real),
      ...(base ? { extends: base.types[0].getText() } : {}),
      ...(code ? { code: code.valueDeclaration.initializer.text } : {}),
      ...(hidden ? {} : { parameters: parameters(make) }),
      members: own.filter(({ name }) => !/^__@|^prototype$/.test(name)).map(member),
    };
  }
  if (real.flags & ts.SymbolFlags.Function) {
    const [signature] = checker.getTypeOfSymbolAtLocation(real, declaration).getCallSignatures();
    const returns = text(signature.getReturnType());
    return { kind: "function", ...doc(real), parameters: parameters(signature), returns };
  }
  if (real.flags & ts.SymbolFlags.Variable) {
    return {
      kind: "constant",
      ...doc(real),
      type: text(checker.getTypeOfSymbolAtLocation(real, declaration)),
    };
  }
  const type = checker.getDeclaredTypeOfSymbol(real);
  const isRecord = Boolean(type.flags & (ts.TypeFlags.Object | ts.TypeFlags.Intersection));
  return {
    kind: "type",
    ...doc(real),
    ...(isRecord
      ? { members: checker.getPropertiesOfType(type).map(member) }
      : { type: declaration.type.getText().replaceAll(/\s+/g, " ") }),
  };
}

function surface(module) {
  const found = checker.getExportsOfModule(module).sort((a, b) => (a.name < b.name ? -1 : 1));
  return Object.fromEntries(found.map((symbol) => [symbol.name, exported(symbol)]));
}

const whole = Object.fromEntries(
  Object.entries(ENTRIES).map(([name, path]) => [
    name,
    surface(checker.getSymbolAtLocation(program.getSourceFile(HERE + path))),
  ]),
);
// the frames' types are the schema's, which has a page of its own
whole["parley-client"].wire.exports = Object.keys(whole["parley-client"].wire.exports);
const json = `${JSON.stringify(whole, null, 1)}\n`;

if (process.argv.includes("--check")) {
  if (readFileSync(TARGET, "utf8") !== json) {
    console.error(
      "surface.json is not current: run npm run generate in clients/javascript, then docs.generate",
    );
    process.exit(1);
  }
} else {
  writeFileSync(TARGET, json);
}
