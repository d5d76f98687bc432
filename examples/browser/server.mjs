// npm start -- BUNDLE: serves this folder and, as bundle/, a bundle, to this machine alone. PORT is 8000 unless set.

import { createReadStream } from "node:fs";
import { realpath, stat } from "node:fs/promises";
import { createServer } from "node:http";
import { dirname, extname, join, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";

const page = dirname(fileURLToPath(import.meta.url));
const bundle = resolve(process.argv[2] ?? join(page, "bundle"));
const port = Number(process.env.PORT || 8000);
const TYPES = {
  ".css": "text/css; charset=utf-8",
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8",
  ".wasm": "application/wasm",
};

/** The file that a path of a URL names, or null where it would lead out of the two folders. */
function fileOf(pathname) {
  const path = decodeURIComponent(pathname);
  const [root, rest] = path.startsWith("/bundle/") ? [bundle, path.slice("/bundle".length)] : [page, path];
  const file = join(root, rest.endsWith("/") ? `${rest}index.html` : rest);
  return file.startsWith(root + sep) && !path.includes("\0") ? file : null;
}

const server = createServer(async (request, response) => {
  try {
    const file = fileOf(new URL(request.url, "http://localhost").pathname);
    if (file === null || !(await stat(file)).isFile()) throw new Error("no such file");
    response.writeHead(200, { "Content-Type": TYPES[extname(file)] ?? "application/octet-stream", "Cache-Control": "no-cache" });
    createReadStream(file).pipe(response);
  } catch {
    response.writeHead(404, { "Content-Type": "text/plain" }).end("no such file\n");
  }
});

await realpath(join(bundle, "manifest.json")).catch(() => {
  console.error(`error: ${bundle} is not a bundle: it has no manifest.json; name one: npm start -- ../../artifacts/latest`);
  process.exit(2);
});
server.on("error", (error) => {
  console.error(`error: cannot listen on 127.0.0.1, port ${port} (${error.code}); set another: PORT=8001 npm start -- ${bundle}`);
  process.exit(74);
});
server.listen(port, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}/ shows ${bundle}`));
