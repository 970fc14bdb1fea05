// Runs in gradio's HTML component, which gives it `element` and `server`: files, their answers, keys
const page = element.querySelector(".ark"), drop = page.querySelector(".ark-drop");
const modality = page.querySelector(".ark-modality select"), bar = page.querySelector(".ark-files");
const list = bar.querySelector("ol"), status = bar.querySelector(".ark-status");
const told = page.querySelector(".ark-told");  // to who does not see it
const result = page.querySelector(".ark-result"), notice = page.querySelector(".ark-notice").textContent;
const { megabytes, most, wait, smaller } = drop.dataset, suffixes = drop.dataset.suffixes.split(" ");
const NO_IMAGE = /\.(txt|csv|tsv|jsonl?|xml|html|md|ya?ml|pdf|xlsx?|gz|zip|tar|parquet|db|ini)$|^dicomdir$/i;
const FIRST_LOOK = { window: 100, level: 50 }, LIMITS = { window: [1, 200], level: [0, 100], opacity: [0, 100] };

let files = [], shown = null, views = [], reading = false, leftOut = "";
let label = null, hidden = new Set();  // the label whose heat map was chosen, the masks that were put off

// What is read

function explained(kind, title, text) {
  const box = document.createElement("div"), head = document.createElement("h2"), body = document.createElement("p");
  box.className = "ark-box ark-" + kind;
  if (kind === "error") box.setAttribute("role", "alert");
  head.textContent = title;
  body.textContent = text;
  box.append(head, body);
  return box.outerHTML;
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.split(",")[1] || "");
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

async function answerTo({ file, modality }) {
  const megabytesOf = size => Math.ceil(size / 2 ** 20);
  if (file.size > megabytes * 2 ** 20)
    return explained("error", file.name,
      `The file has ${megabytesOf(file.size)} MB; up to ${megabytes} MB are read. ${smaller}`);
  let data;
  try { data = await base64(file); } catch {
    return explained("error", file.name, "The browser cannot read it. Is it a folder, or was it moved?");
  }
  const answer = await server.read({ name: file.name, data, modality });
  return answer ?? explained("error", file.name, "The server does not answer. Is it still running? Try again.");
}

async function readAll() {
  if (reading) return;
  reading = true;
  page.classList.add("busy");
  result.setAttribute("aria-busy", "true");
  for (let next; (next = files.find(each => each.html === null));) {
    next.state = "reading";
    listFiles();
    next.html = await answerTo(next);
    next.file = null;
    const answer = new DOMParser().parseFromString(next.html, "text/html");
    const facts = answer.querySelector(".ark-columns")?.dataset.facts;
    Object.assign(next, facts ? JSON.parse(facts) : {
      brief: "not read", error: [...answer.querySelectorAll("li, p")].map(each => each.textContent).join(" "),
    });
    next.state = next.warnings?.length ? `${next.brief}, doubts` : next.brief;
    if (next === shown) show(next);
  }
  reading = false;
  page.classList.remove("busy");
  result.removeAttribute("aria-busy");
  listFiles();
}

// `found` are files and the names that they are listed by
function add(found, others = 0) {
  const room = Math.max(0, most - files.length), added = found.slice(0, room).map(({ file, name }) =>
    ({ file, name, modality: modality ? modality.value : "", html: null, state: "waiting" }));
  const reasons = [];
  if (found.length > room) reasons.push(`${most} files are read at once; ${found.length - room} more were left out.`);
  if (others === 1) reasons.push("One file of the folder is no image and was left out.");
  else if (others) reasons.push(`${others} files of the folder are no images and were left out.`);
  leftOut = reasons.join(" ");
  files.push(...added);
  if (added.length) show(added[0]);
  else if (!files.length)
    result.innerHTML = explained("error", "Nothing to read", leftOut || "There is no file in it.");
  listFiles();
  readAll();
}

async function isImage(file) {
  const name = file.name.toLowerCase();
  if (name.startsWith(".") || NO_IMAGE.test(name) && !suffixes.some(each => name.endsWith(each))) return false;
  if (suffixes.some(each => name.endsWith(each))) return true;
  try { return await file.slice(128, 132).text() === "DICM"; } catch { return false; }
}

async function addFolder(inside) {
  const isOf = await Promise.all(inside.map(({ file }) => isImage(file)));
  const images = inside.filter((_, number) => isOf[number]);
  images.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
  add(images, inside.length - images.length);
}

// All files below what was dropped, which may be a folder
async function filesBelow(entry, folder = "") {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ file, name: folder + file.name }];
  }
  const reader = entry.createReader(), found = [];
  for (let some; (some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject))).length;)
    found.push(...some);
  return (await Promise.all(found.map(each => filesBelow(each, `${folder}${entry.name}/`)))).flat();
}

async function addDropped({ items, files }) {
  const named = [...files].map(file => ({ file, name: file.name }));
  const entries = [...items].map(each => each.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some(each => each.isDirectory)) return named.length && add(named);
  addFolder((await Promise.all(entries.map(each => filesBelow(each)))).flat());
}

// What is shown

const look = {
  ...FIRST_LOOK, opacity: 100,
  set(values) {
    for (const [name, value] of Object.entries(values)) {
      const [low, high] = LIMITS[name], slider = result.querySelector(`input[name="${name}"]`);
      look[name] = Math.min(high, Math.max(low, value));
      if (!slider) continue;
      slider.value = look[name];
      slider.nextElementSibling.textContent = `${Math.round(look[name])} %`;
    }
    cancelAnimationFrame(look.frame);
    look.frame = requestAnimationFrame(() => views.forEach(view => view.draw()));
  },
  change: steps => look.set(Object.fromEntries(Object.entries(steps).map(([name, step]) => [name, look[name] + step]))),
};

function show(file) {
  const hadFocus = result.contains(document.activeElement);
  shown = file;
  views = [];
  result.innerHTML = file.html ?? explained("wait", "Reading " + file.name, wait);
  page.classList.toggle("read", files.some(each => each.rows));
  const opacity = result.querySelector('input[name="opacity"]');
  look.set({ ...FIRST_LOOK, opacity: opacity ? Number(opacity.value) : 100 });
  for (const input of result.querySelectorAll(".ark-row input")) {
    if (input.type === "radio" && input.value === label) input.checked = true;
    if (input.dataset.colour && hidden.has(input.value)) input.checked = false;
  }
  views = [...result.querySelectorAll("figure")].map(figure => new View(figure, look));
  overlay();
  listFiles();
  if (hadFocus || document.activeElement === document.body)
    views[0]?.frame.focus({ preventScroll: true, focusVisible: false });
  if (!hadFocus) window.scrollTo({ top: 0 });
}

// Lays over the pictures what is checked
function overlay() {
  const checked = [...result.querySelectorAll(".ark-row input:checked")];
  const chosen = checked.find(each => each.type === "radio");
  if (chosen) result.querySelector(".ark-overlaid").textContent = chosen.dataset.caption;
  for (const each of result.querySelectorAll(".ark-legend li"))
    each.hidden = !checked.some(input => input.value === each.dataset.number);
  const boxes = [...result.querySelectorAll(".ark-row input[data-colour]")];
  const all = result.querySelector(".ark-all input");
  if (all) {
    all.checked = boxes.every(each => each.checked);
    all.indeterminate = !all.checked && boxes.some(each => each.checked);
  }
  for (const view of views) {
    const slider = view.figure.querySelector("input[data-slices]");
    const slice = slider ? JSON.parse(slider.dataset.slices)[slider.value] : { picture: view.image.src };
    if (slider) view.figure.querySelector("figcaption").lastChild.textContent = " " + slice.about;
    const layers = checked.map(({ value, dataset }) =>
      ({ source: dataset.layer ?? slice.layers?.[value], colour: dataset.colour }));
    view.show(slice.picture, layers.filter(each => each.source));
  }
}

function listFiles() {
  const done = files.filter(each => each.html !== null).length;
  bar.hidden = !files.length;
  bar.classList.toggle("several", files.length > 1);
  const read = done < files.length ? `Read ${done} of ${files.length} files. ` : `${files.length} files. `;
  status.textContent = (files.length > 1 ? read : "") + leftOut;
  told.textContent = `${status.textContent} ${shown ? `${shown.name}: ${shown.state}` : ""}`;
  list.replaceChildren(...files.map(file => {
    const [item, button, name, state] = ["li", "button", "span", "small"].map(tag => document.createElement(tag));
    button.type = "button";
    button.title = file.name;
    button.append(name, state);
    name.textContent = file.name;
    state.textContent = file.state;
    if (file === shown) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => show(file));
    item.append(button);
    return item;
  }));
  const current = list.querySelector("[aria-current]");
  if (current) list.scrollTo(current.offsetLeft - 40, current.offsetTop - list.clientHeight / 2);
}

function step(by) {
  const next = files[files.indexOf(shown) + by];
  if (next) show(next);
}

function savePicture(view) {
  const colours = [...view.figure.parentElement.querySelectorAll(".ark-legend li:not([hidden])")].map(each =>
    ({ colour: each.firstChild.style.background, text: each.textContent }));
  const heat = view.figure.querySelector(".ark-heat");
  if (heat) colours.push({ bar: heat, text: "speaks for it, from little to most" });
  const picture = withCaption(view, [view.figure.querySelector("figcaption").textContent], colours, notice);
  picture.toBlob(content => save(shown.name.replace(/.*\//, "") + ".png", content), "image/png");
}

let opacityBefore = 100;
const DOES = {
  in: view => view.zoom(ZOOM_STEP),
  out: view => view.zoom(1 / ZOOM_STEP),
  png: savePicture,
  reset: () => {
    views.forEach(view => view.reset());
    const slider = result.querySelector('input[name="opacity"]');
    look.set({ ...FIRST_LOOK, ...(slider && { opacity: Number(slider.defaultValue) }) });
  },
  overlay: () => {
    if (look.opacity) opacityBefore = look.opacity;
    look.set({ opacity: look.opacity ? 0 : opacityBefore });
  },
  previous: () => step(-1),
  next: () => step(1),
  csv: () => {
    const read = table(files.filter(each => each.html !== null));
    save("answers.csv", new Blob(["\ufeff", read], { type: "text/csv" }));  // the first tells Excel that it is UTF-8
  },
  clear: () => {
    [files, shown, views, leftOut] = [[], null, [], ""];
    result.replaceChildren();
    page.classList.remove("read");
    listFiles();
  },
};
const KEYS = {
  "+": "in", "=": "in", "-": "out", "0": "reset", o: "overlay",
  w: { window: -5 }, W: { window: 5 }, l: { level: -2 }, L: { level: 2 },
};
const ARROWS = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

// What people do

drop.addEventListener("change", ({ target }) => {
  const found = [...target.files].map(file => ({ file, name: file.webkitRelativePath || file.name }));
  target.value = "";  // so that the same may be chosen again
  if (target.webkitdirectory) addFolder(found);
  else if (found.length) add(found);
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, event => {
    event.preventDefault();  // or the browser would leave the page and show the file
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop") addDropped(event.dataTransfer);
  });
}
page.addEventListener("click", event => {
  const button = event.target.closest("button[data-do]");
  if (button) DOES[button.dataset.do](views.find(view => view.frame.contains(button)));
});
result.addEventListener("change", event => {
  const { target } = event;
  if (!target.closest(".ark-row")) return;
  const boxes = target.closest(".ark-all") ? [...result.querySelectorAll(".ark-row input[data-colour]")] : [target];
  for (const each of boxes) {
    if (each.type === "radio") label = each.value;
    else {
      each.checked = target.checked;
      hidden[each.checked ? "delete" : "add"](each.value);
    }
  }
  overlay();
});
result.addEventListener("input", ({ target }) => {
  if (target.name in LIMITS) look.set({ [target.name]: Number(target.value) });
  else if (target.dataset.slices) overlay();
});
document.addEventListener("keydown", event => {
  const { key, target } = event, slides = target.matches("select, input[type=range]");
  if (event.ctrlKey || event.metaKey || event.altKey || key in ARROWS && slides) return;
  const view = views.find(each => each.frame.contains(target)) ?? views[0];
  const does = target.closest(".ark-pictures, .ark-controls") && KEYS[key];
  if (key in ARROWS && event.shiftKey && view?.frame.contains(target))
    view.move(...ARROWS[key].map(each => each * MOVE_STEP));
  else if (/Arrow(Left|Right)/.test(key) && !event.shiftKey && files.length > 1) step(key.endsWith("Left") ? -1 : 1);
  else if (typeof does === "string") DOES[does](view);
  else if (does) look.change(does);
  else return;
  event.preventDefault();
});
window.addEventListener("resize", () => views.forEach(view => view.place()));
