// Makes dist/: one module, one plain script, and the types.

import { spawnSync } from "node:child_process";
import { rmSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

process.chdir(fileURLToPath(new URL(".", import.meta.url)));
rmSync("dist", { recursive: true, force: true });

const common = { entryPoints: ["src/index.js"], bundle: true, target: "es2020", legalComments: "none" };
await build({ ...common, format: "esm", outfile: "dist/high-templar.mjs" });
await build({ ...common, format: "iife", globalName: "HighTemplar", outfile: "dist/high-templar.js", minify: true });

const { status } = spawnSync(process.execPath, ["node_modules/typescript/bin/tsc"], { stdio: "inherit" });
process.exit(status ?? 1);
