// A picture that is looked at: zoomed, moved and brightened, with heat map or masks over it, without the server
const MOST_ZOOM = 16, ZOOM_STEP = 1.3, MOVE_STEP = 40;  // the last in pixels

function blank(width, height) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  return canvas;
}

const drawing = canvas => canvas.getContext("2d", { willReadFrequently: true });

async function decoded(source) {
  const image = new Image();
  image.src = source;
  await image.decode();
  return image;
}

function changed(canvas, change) {
  const context = drawing(canvas), pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  change(pixels.data);
  context.putImageData(pixels, 0, 0);
  return canvas;
}

// The greys of `window` and `level`, in percent of all, spread from black to white
function windowed(data, { window, level }) {
  const table = Uint8ClampedArray.from({ length: 256 }, (_, grey) =>
    255 * (100 * grey / 255 - level + window / 2) / window);
  for (let at = 0; at < data.length; at += 4)
    for (let channel = at; channel < at + 3; channel++) data[channel] = table[data[channel]];
}

// A layer says in grey how opaque it is; `colours` has a colour for each grey
function coloured(layer, colours, width, height) {
  const canvas = blank(width, height), context = drawing(canvas);
  context.imageSmoothingQuality = "high";
  context.drawImage(layer, 0, 0, width, height);
  return changed(canvas, data => {
    for (let at = 0; at < data.length; at += 4) {
      const grey = data[at], colour = colours[grey];
      for (let channel = 0; channel < 3; channel++) data[at + channel] = colour[channel];
      data[at + 3] = grey;
    }
  });
}

const coloursOfHeat = bar => {
  const canvas = blank(256, 1);
  drawing(canvas).drawImage(bar, 0, 0);
  const { data } = drawing(canvas).getImageData(0, 0, 256, 1);
  return Array.from({ length: 256 }, (_, grey) => data.slice(4 * grey, 4 * grey + 3));
};

class View {
  constructor(figure, look) {
    this.figure = figure;
    this.look = look;  // window, level and opacity, of all views on the page
    this.frame = figure.querySelector(".ark-view");
    this.stage = figure.querySelector(".ark-stage");
    this.image = this.stage.querySelector("img");
    this.base = blank(1, 1);
    this.over = blank(1, 1);
    this.stage.append(this.base, this.over);
    this.turn = 0;
    this.pointers = new Map();
    this.reset();
    this.listen();
  }

  // `layers` have a source and the colour of a mask, or none: a heat map
  async show(picture, layers) {
    const turn = ++this.turn, bar = this.figure.querySelector(".ark-heat");
    const image = await decoded(picture), loaded = await Promise.all(layers.map(each => decoded(each.source)));
    if (bar) await bar.decode();
    if (turn !== this.turn) return;  // another was asked for meanwhile
    const { naturalWidth: width, naturalHeight: height } = image;
    if (this.image.src !== picture) this.image.src = picture;
    this.picture = image;
    Object.assign(this.over, { width, height });
    layers.forEach(({ colour }, number) => {
      const colours = colour ? Array(256).fill(colour.match(/\d+/g).map(Number)) : coloursOfHeat(bar);
      drawing(this.over).drawImage(coloured(loaded[number], colours, width, height), 0, 0);
    });
    this.draw();
  }

  draw() {
    if (!this.picture) return;
    const { window, level, opacity } = this.look, plain = window === 100 && level === 50;
    Object.assign(this.base, { width: this.over.width, height: this.over.height });
    drawing(this.base).drawImage(this.picture, 0, 0);
    if (!plain) changed(this.base, data => windowed(data, this.look));
    this.over.style.opacity = opacity / 100;
    this.frame.dataset.drawn = this.turn;
  }

  reset() {
    [this.scale, this.x, this.y] = [1, 0, 0];
    this.place();
  }

  place() {
    const { clientWidth: width, clientHeight: height } = this.frame, spare = this.scale - 1;
    this.x = Math.min(0, Math.max(-width * spare, this.x));
    this.y = Math.min(0, Math.max(-height * spare, this.y));
    this.stage.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    this.frame.classList.toggle("zoomed", spare > 0);
  }

  move(right, down) {
    this.x += right;
    this.y += down;
    this.place();
  }

  // About a place in the frame, in pixels; about its middle unless told
  zoom(factor, x = this.frame.clientWidth / 2, y = this.frame.clientHeight / 2) {
    const scale = Math.min(MOST_ZOOM, Math.max(1, this.scale * factor)), grown = scale / this.scale;
    this.x = x - grown * (x - this.x);
    this.y = y - grown * (y - this.y);
    this.scale = scale;
    this.place();
  }

  listen() {
    const at = event => {
      const { left, top } = this.frame.getBoundingClientRect();
      return [event.clientX - left, event.clientY - top];
    };
    this.frame.addEventListener("wheel", event => {
      if (this.scale === 1 && event.deltaY > 0) return;  // the page scrolls
      event.preventDefault();
      this.zoom(Math.exp(-0.002 * event.deltaY * (event.deltaMode ? 20 : 1)), ...at(event));
    }, { passive: false });
    this.frame.addEventListener("dblclick", event => {
      if (!event.target.closest("button")) this.zoom(ZOOM_STEP ** 3, ...at(event));
    });
    this.frame.addEventListener("pointerdown", event => {
      if (event.button || event.target.closest("button")) return;
      this.frame.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, at(event));
    });
    for (const kind of ["pointerup", "pointercancel"])
      this.frame.addEventListener(kind, event => this.pointers.delete(event.pointerId));
    this.frame.addEventListener("pointermove", event => {
      const before = this.pointers.get(event.pointerId);
      if (!before) return;
      const now = at(event), [right, down] = [now[0] - before[0], now[1] - before[1]];
      const other = [...this.pointers].find(([number]) => number !== event.pointerId)?.[1];
      this.pointers.set(event.pointerId, now);
      if (other) this.zoom(Math.hypot(now[0] - other[0], now[1] - other[1]) /
        Math.max(1, Math.hypot(before[0] - other[0], before[1] - other[1])), ...other);
      else if (event.shiftKey) this.look.change({ window: right / 4, level: down / 4 });
      else this.move(right, down);
    });
  }

  // What is seen, as large as the picture itself where nothing is zoomed
  drawn() {
    const { width, height } = this.base, { clientWidth, clientHeight } = this.frame;
    const fit = Math.min(clientWidth / width, clientHeight / height) * this.scale;  // of a pixel, on the page
    const left = (clientWidth - width * fit / this.scale) / 2 * this.scale + this.x;
    const top = (clientHeight - height * fit / this.scale) / 2 * this.scale + this.y;
    const x = Math.max(0, -left / fit), y = Math.max(0, -top / fit);
    const seen = [Math.min(width, (clientWidth - left) / fit) - x, Math.min(height, (clientHeight - top) / fit) - y];
    const canvas = blank(...seen.map(side => Math.max(1, Math.round(side * this.scale)))), context = drawing(canvas);
    const where = [x, y, ...seen, 0, 0, canvas.width, canvas.height];
    context.drawImage(this.base, ...where);
    context.globalAlpha = this.look.opacity / 100;
    context.drawImage(this.over, ...where);
    return canvas;
  }
}
