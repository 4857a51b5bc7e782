// Makes dist/: a module, the same for `require`, a plain script, and types for both. `npm pack` runs it; nothing of it is committed.
// What it makes depends on the sources and the pinned versions of esbuild and TypeScript alone.

import { spawnSync } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

process.chdir(fileURLToPath(new URL(".", import.meta.url)));
rmSync("dist", { recursive: true, force: true });
mkdirSync("dist/commonjs", { recursive: true });
// Inside a package of modules. A file named `.cjs` would need no such word, but older bundlers take it for an asset.
writeFileSync("dist/commonjs/package.json", '{ "type": "commonjs" }\n');

const common = {
  entryPoints: ["src/index.js"],
  bundle: true,
  target: "es2017", // what the parser of webpack 4 reads
  legalComments: "none",
  minify: true,
};
await build({ ...common, format: "esm", outfile: "dist/high-templar.mjs", sourcemap: true });
await build({ ...common, format: "cjs", outfile: "dist/commonjs/high-templar.js", sourcemap: true });
await build({ ...common, format: "iife", globalName: "HighTemplar", outfile: "dist/high-templar.js" });

for (const outDir of ["dist/types", "dist/commonjs/types"]) {
  const { status } = spawnSync(process.execPath, ["node_modules/typescript/bin/tsc", "--outDir", outDir], { stdio: "inherit" });
  if (status !== 0) process.exit(status ?? 1);
}
