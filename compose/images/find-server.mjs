// find-server.mjs DIRECTORY SPECIFIER: prints the path of the command of an installed npm package.
import { readFileSync } from "node:fs";
import { join } from "node:path";

const [directory, specifier] = process.argv.slice(2);
const fail = (text) => {
  console.error(text);
  process.exit(1);
};
// The name comes from npm's own record, because a specifier can be a tag, a URL or a folder.
const asked = Object.keys(JSON.parse(readFileSync(join(directory, "package.json"), "utf8")).dependencies ?? {});
const name = asked[0] ?? fail(`npm installed nothing for ${specifier}.`);
const { bin } = JSON.parse(readFileSync(join(directory, "node_modules", name, "package.json"), "utf8"));
const short = name.split("/").pop();
const names = typeof bin === "string" ? [short] : Object.keys(bin ?? {});
if (names.length === 0) fail(`${name} has no command, so there is no MCP server to run.`);
console.log(join(directory, "node_modules", ".bin", names.includes(short) ? short : names[0]));
