// Pictures that prove something: part 8 of loopback.py in a browser. "connected" proves nothing, a picture that arrives
// does: each carries its number in the top left corner, so that the far end knows which one it shows, and how late.
//
//   1  The time code     drawn into a picture, read from one
//   2  The test picture  a video track that moves, each picture with its number
//   3  The delay         from the moment a picture was captured until a <video> shows it

// ---- 1  The time code -----------------------------------------------------------------------------------------------
// 32 black and white cells: in the first row the 16 bits of the number, in the second their checksum. A cell is 8
// pixels wide, to survive the compression; the block begins at (4, 4), off VP8's 16-pixel grid, on purpose.

const CELL = 8, ROWS = 2, COLUMNS = 16, EDGE = 4; // pixels, cells, cells, pixels
const CODE_WIDTH = EDGE + COLUMNS * CELL, CODE_HEIGHT = EDGE + ROWS * CELL; // what a reader needs of a picture

/** CRC-CCITT of a number's two bytes, starting with 0xFFFF: Python's binascii.crc_hqx. */
function checksum(number) {
  let rest = 0xffff ^ number;
  for (let bit = 0; bit < 16; bit++) rest = ((rest << 1) ^ (rest & 0x8000 ? 0x1021 : 0)) & 0xffff;
  return rest;
}

/** Draw a number, 0 to 65535, into a picture of at least 132 x 20 pixels. */
export function writeTimeCode(context, number) {
  for (const [row, word] of [number, checksum(number)].entries()) {
    for (let column = 0; column < COLUMNS; column++) {
      context.fillStyle = (word >> (COLUMNS - 1 - column)) & 1 ? "#fff" : "#000";
      context.fillRect(EDGE + column * CELL, EDGE + row * CELL, CELL, CELL);
    }
  }
}

/** The number in an ImageData that begins at the picture's top left corner; null where its checksum says that it cannot
 * be read. */
export function readTimeCode({ data, width, height }) {
  if (width < CODE_WIDTH || height < CODE_HEIGHT) return null;
  const green = (x, y) => data[(y * width + x) * 4 + 1]; // it is enough
  const [number, check] = Array.from({ length: ROWS }, (_, row) => {
    let word = 0;
    for (let column = 0; column < COLUMNS; column++) {
      const x = EDGE + column * CELL + CELL / 2, y = EDGE + row * CELL + CELL / 2; // the four pixels around its centre
      const light = (green(x - 1, y - 1) + green(x, y - 1) + green(x - 1, y) + green(x, y)) / 4;
      word = word * 2 + (light > 127);
    }
    return word;
  });
  return checksum(number) === check ? number : null;
}

// ---- 2  The test picture --------------------------------------------------------------------------------------------

/** A video track without a camera: the view from loopback's train, in the evening. `onNumber(number, capturedAtMs)` is
 * called for each picture, the time on performance.now()'s clock. */
export function testPicture(width, height, fps) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { alpha: false });
  const draw = landscape(width, height);
  const [track] = canvas.captureStream().getVideoTracks(); // a picture whenever the canvas has changed
  const picture = {
    track,
    onNumber: () => {},
    stop() {
      worker.terminate();
      track.stop();
    },
  };
  let number = 0, last = -Infinity;
  const worker = new Worker(new URL("ticks.js", import.meta.url));
  worker.onmessage = () => {
    const capturedAt = performance.now();
    if (capturedAt - last < 500 / fps) return; // this beat had to wait: a burst would show the past
    last = capturedAt;
    draw(context, capturedAt / 1000, number);
    writeTimeCode(context, number);
    picture.onNumber(number, capturedAt);
    number = (number + 1) % 65536;
  };
  worker.postMessage(1000 / fps);
  return picture;
}

/** A function that draws the view at a second: calm sky, which a codec keeps, and near, fine grass, which it blurs. */
function landscape(width, height) {
  const horizon = height * 0.55;
  const hills = (colour, high, waves) => (pen, strip) => {
    pen.fillStyle = colour;
    for (let x = 0; x < strip; x++) {
      const angle = (2 * Math.PI * x) / width; // the landscape repeats after one width
      const wave = waves.reduce((sum, one) => sum + Math.sin(one * angle + one * one) / one, 0);
      const tall = horizon * high * (0.5 + wave * 0.6);
      pen.fillRect(x, horizon - tall, 1, tall);
    }
  };
  const field = (hue, blades) => (pen, strip, tall) => {
    pen.fillStyle = `hsl(${hue} 32% 20%)`;
    pen.fillRect(0, 0, strip, tall);
    for (let blade = 0; blade < blades; blade++) {
      const x = Math.random() * width, y = Math.random() * tall, size = 2 + Math.random() * tall * 0.25;
      pen.fillStyle = `hsl(${hue + Math.random() * 25} 40% ${18 + Math.random() * 24}%)`;
      for (const copy of [x, x + width]) pen.fillRect(copy, y, 2, size);
    }
  };
  const strips = [
    [0, horizon, 0.02, hills("#5b5580", 0.55, [2, 5, 9])],
    [0, horizon, 0.05, hills("#3c4263", 0.28, [3, 7, 13])],
    [horizon, height * 0.68, 0.2, field(95, width / 4)],
    [height * 0.68, height * 0.84, 0.5, field(85, width / 6)],
    [height * 0.84, height, 1.2, field(75, width / 8)],
  ].map(([top, bottom, speed, paint]) => {
    const size = { width: 2 * width, height: Math.ceil(bottom - top) };
    const strip = Object.assign(document.createElement("canvas"), size);
    paint(strip.getContext("2d"), size.width, size.height);
    return { strip, top, speed };
  });

  return (pen, t, number) => {
    const sky = pen.createLinearGradient(0, 0, 0, horizon);
    [["#27345e", 0], ["#a0627a", 0.65], ["#f3b071", 1]].forEach(([colour, place]) => sky.addColorStop(place, colour));
    pen.fillStyle = sky;
    pen.fillRect(0, 0, width, horizon);
    for (const { strip, top, speed } of strips) {
      const left = (t * speed * width) % width;
      pen.drawImage(strip, left, 0, width, strip.height, 0, top, width, strip.height);
    }
    const x = width * (0.5 + 0.35 * Math.sin(t * 0.7)), y = height * (0.3 + 0.08 * Math.sin(t * 1.9));
    const size = Math.max(height / 12, 4);
    for (const [wide, colour] of [[size, "#f2c230"], [size / 3, "#2f6fd6"]]) {
      pen.fillStyle = colour;
      pen.beginPath();
      pen.ellipse(x, y, wide, size * 1.2, 0, 0, 2 * Math.PI);
      pen.fill();
    }
    pen.fillStyle = "#5a4028";
    pen.fillRect(x - size / 4, y + size * 1.5, size / 2, size / 2);
    pen.fillStyle = "#fff";
    pen.font = `${Math.round(height / 14)}px monospace`;
    pen.textAlign = "right";
    pen.fillText(`picture ${number}`, width * 0.97, height * 0.95);
  };
}

// ---- 3  The delay ---------------------------------------------------------------------------------------------------

const MOST_WAITING = 300; // pictures that were shown, but of which nobody has said yet when they were captured

/** Tell onDelay, for each picture that a <video> shows, how many ms after its capture that is. `now` is a clock in ms;
 * capturedAt(number) is a time on it, or undefined while it is not known: it is asked again with the next pictures. A
 * picture counts as shown when requestVideoFrameCallback tells of it (without that, when the page is next drawn).
 * Returns a function that ends it. */
export function watchDelay(video, { capturedAt, now, onDelay }) {
  const size = { width: CODE_WIDTH, height: CODE_HEIGHT };
  const context = Object.assign(document.createElement("canvas"), size).getContext("2d", { willReadFrequently: true });
  const [ask, cancel] = "requestVideoFrameCallback" in video
    ? [(look) => video.requestVideoFrameCallback(look), (handle) => video.cancelVideoFrameCallback(handle)]
    : [requestAnimationFrame, cancelAnimationFrame];
  const shown = new Map(); // number: when
  let last = null, handle = ask(look);

  function look() {
    handle = ask(look);
    const at = now();
    context.drawImage(video, 0, 0, CODE_WIDTH, CODE_HEIGHT, 0, 0, CODE_WIDTH, CODE_HEIGHT);
    const number = readTimeCode(context.getImageData(0, 0, CODE_WIDTH, CODE_HEIGHT));
    if (number !== null && number !== last) shown.set(number, at);
    last = number ?? last;
    for (const [earlier, shownAt] of shown) {
      const from = capturedAt(earlier);
      if (from === undefined) continue;
      shown.delete(earlier);
      onDelay(shownAt - from);
    }
    if (shown.size > MOST_WAITING) shown.delete(shown.keys().next().value);
  }

  return () => cancel(handle);
}
