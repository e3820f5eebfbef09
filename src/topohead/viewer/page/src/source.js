// Where the scene's document and bodies come from: the local server, or this very file.

const inlined = document.getElementById("scene");

/** Whether everything is inside the page. */
export const offline = inlined !== null;

/** The scene's document. */
export async function loadDocument() {
  if (offline) return JSON.parse(inlined.textContent);
  return (await fetched("api/scene")).json();
}

/** A body as an ArrayBuffer. */
export async function loadBytes(name) {
  return (await loadBlob(name)).arrayBuffer();
}

/** A body as a Blob with its MIME type; fails with the server's own words. */
export async function loadBlob(name) {
  if (!offline) return (await fetched(`data/${name}`)).blob();
  const element = document.querySelector(`script[data-name="${CSS.escape(name)}"]`);
  if (element === null) throw new Error(`this file was written without ${name}`);
  const { mime, packed } = element.dataset;
  const text = await fetch(`data:application/octet-stream;base64,${element.textContent}`);
  if (packed !== "1") return new Blob([await text.arrayBuffer()], { type: mime });
  const unpacked = text.body.pipeThrough(new DecompressionStream("deflate"));
  return new Blob([await new Response(unpacked).arrayBuffer()], { type: mime });
}

async function fetched(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error((await response.text()) || response.statusText);
  return response;
}
