// Photos as Immich would send them: its previews have a shorter side of 1440 pixels, in JPEG of quality 80.

const SHORTER_SIDE = 1440;
const QUALITY = 0.8;

export async function preview(file) {
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (bitmap === null) return { blob: file, url: URL.createObjectURL(file), width: null, height: null };
  const scale = Math.min(1, SHORTER_SIDE / Math.min(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", QUALITY));
  return { blob, url: URL.createObjectURL(blob), width: canvas.width, height: canvas.height };
}
