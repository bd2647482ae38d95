// Images of the visitor: decoding, checks, encoding.

// An error whose message is for the visitor.
export class PageError extends Error {}

const MAX_SIDE = 16384;
export const MAX_PIXELS = 64e6;
const SIGNATURES = [
  ["image/png", [0x89, 0x50, 0x4e, 0x47]],
  ["image/jpeg", [0xff, 0xd8, 0xff]],
  ["image/webp", [0x52, 0x49, 0x46, 0x46]],
];
const SUFFIXES = { "image/png": "png", "image/jpeg": "jpg", "image/webp": "webp" };

// Decode a file. Orientation and color profile are applied.
// Returns {name, type, width, height, gray, alpha, deep, canvas, read}.
export async function decode(blob, name) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    throw new PageError(`This browser cannot read “${name}” as an image. The file is damaged, or its format is not PNG, JPEG or WebP.`);
  }
  const { width, height } = bitmap;
  checkSize(width, height, "The image");
  const head = new Uint8Array(await blob.slice(0, 32).arrayBuffer());
  const type = SIGNATURES.find(([, bytes]) => bytes.every((byte, i) => head[i] === byte))?.[0] ?? "";
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new PageError("There is not enough memory for this image.");
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const read = (x, y, w, h) => context.getImageData(x, y, w, h).data;
  return { name, type, width, height, canvas, read, deep: type === "image/png" && head[24] === 16, ...channels(read, width, height) };
}

export function checkSize(width, height, what) {
  if (width > MAX_SIDE || height > MAX_SIDE || width * height > MAX_PIXELS) {
    throw new PageError(
      `${what} would be too large: ${width} × ${height} pixels. At most ${MAX_PIXELS / 1e6} megapixels and ${MAX_SIDE} pixels per side work here.`
        .replace("The image would be", "The image is"),
    );
  }
}

function channels(read, width, height) {
  let gray = true;
  let alpha = false;
  for (let y = 0; y < height && (gray || !alpha); y += 256) {
    const data = read(0, y, width, Math.min(256, height - y));
    for (let i = 0; i < data.length; i += 4) {
      if (data[i] !== data[i + 1] || data[i] !== data[i + 2]) gray = false;
      if (data[i + 3] !== 255) alpha = true;
    }
  }
  return { gray, alpha };
}

// Encode a canvas in the format of a source, or as PNG if the browser cannot write that format.
export async function encode(canvas, source) {
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, source.type || "image/png", 0.95));
  if (!blob) throw new PageError("There is not enough memory to write this image.");
  const stem = source.name.replace(/\.[^.]*$/, "") || "image";
  return { blob, name: `${stem}.restored.${SUFFIXES[blob.type]}` };
}

// Return the PSNR between two canvases of the same size, over the color channels.
export function psnr(first, second) {
  const [a, b] = [first, second].map((canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data);
  let sum = 0;
  for (let i = 0; i < a.length; i++) if (i % 4 !== 3) sum += (a[i] - b[i]) ** 2;
  return 10 * Math.log10((255 ** 2 * a.length * 0.75) / sum);
}

// Return the first image of a tensor (1, channels, height, width) in [0, 1], of one or three channels.
export function toImage({ data, dims: [, channels, height, width] }) {
  const image = new ImageData(width, height);
  const size = width * height;
  for (let i = 0; i < size; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = 255 * data[(channels === 3 ? c * size : 0) + i];
    image.data[4 * i + 3] = 255;
  }
  return image;
}
