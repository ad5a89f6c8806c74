// find-server.mjs DIRECTORY SPECIFIER: the path of the command that an installed npm package brings.
import { readFileSync } from "node:fs";
import { join } from "node:path";

const [directory, specifier] = process.argv.slice(2);
const fail = (text) => {
  console.error(text);
  process.exit(1);
};
// What npm wrote down as asked for: a specifier may be a tag, a URL or a folder.
const asked = Object.keys(JSON.parse(readFileSync(join(directory, "package.json"), "utf8")).dependencies ?? {});
const name = asked[0] ?? fail(`npm installed nothing for ${specifier}.`);
const { bin } = JSON.parse(readFileSync(join(directory, "node_modules", name, "package.json"), "utf8"));
const short = name.split("/").pop();
const names = typeof bin === "string" ? [short] : Object.keys(bin ?? {});
if (names.length === 0) fail(`${name} brings no command, so there is no MCP server to run.`);
console.log(join(directory, "node_modules", ".bin", names.includes(short) ? short : names[0]));
