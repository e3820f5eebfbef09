// Bundles the page into ../dist: index.html, style.css, page.js, and page-splats.js with Spark.
import { build } from "esbuild";
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";

const out = new URL("../dist/", import.meta.url);
rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });

await build({
  entryPoints: ["src/page.js", "src/page-splats.js"],
  outdir: out.pathname,
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2022"],
  legalComments: "none",
  logLevel: "warning",
});
for (const name of ["index.html", "style.css"]) cpSync(`src/${name}`, new URL(name, out));

// Their licences ask for their notices to travel with the code.
const bundled = ["three", "@sparkjsdev/spark", "fflate"];
const notices = bundled.map((name) => {
  const { version, license } = JSON.parse(readFileSync(`node_modules/${name}/package.json`));
  return `${name} ${version} (${license})\n\n${readFileSync(`node_modules/${name}/LICENSE`)}`;
});
writeFileSync(new URL("LICENSES.txt", out), notices.join(`\n${"-".repeat(72)}\n\n`));
