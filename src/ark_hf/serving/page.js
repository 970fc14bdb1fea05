// Runs in gradio's HTML component, which gives it `element` and `server`
const page = element.querySelector(".ark"), drop = page.querySelector(".ark-drop");
const modality = page.querySelector(".ark-modality select");
const input = drop.querySelector("input"), result = page.querySelector(".ark-result");

function say(kind, title, text) {
  const box = document.createElement("div"), head = document.createElement("h2"), body = document.createElement("p");
  box.className = "ark-box ark-" + kind;
  head.textContent = title;
  body.textContent = text;
  box.append(head, body);
  result.replaceChildren(box);
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.split(",")[1] || "");
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

async function read(files) {
  if (!files.length || page.classList.contains("busy")) return;
  const file = files[0], limit = Number(drop.dataset.megabytes);
  page.classList.remove("read");
  if (files.length > 1) return say("error", "One at a time", "Choose or drop a single file.");
  if (file.size > limit * 2 ** 20) {
    const size = Math.ceil(file.size / 2 ** 20);
    return say("error", file.name, `The file has ${size} MB; up to ${limit} MB are read. ${drop.dataset.smaller}`);
  }
  page.classList.add("busy");
  result.setAttribute("aria-busy", "true");
  say("wait", "Reading " + file.name, drop.dataset.wait);
  let data, answer;
  try { data = await base64(file); } catch { data = null; }
  if (data !== null) answer = await server.read({ name: file.name, data, modality: modality ? modality.value : "" });
  if (data === null) say("error", file.name, "The browser cannot read it. Is it a folder, or was it moved?");
  else if (answer === undefined) say("error", file.name, "The server does not answer. Is it still running? Try again.");
  else {
    result.innerHTML = answer;
    page.classList.toggle("read", Boolean(result.querySelector(".ark-columns")));
  }
  page.classList.remove("busy");
  result.removeAttribute("aria-busy");
  window.scrollTo({ top: 0 });
}

input.addEventListener("change", async () => { await read(input.files); input.value = ""; });
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, event => {
    event.preventDefault();  // or the browser would leave the page and show the file
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop") read(event.dataTransfer.files);
  });
}
result.addEventListener("change", event => {
  const { picture, caption } = event.target.dataset, image = result.querySelectorAll("figure img")[1];
  if (!picture) return;
  image.src = picture;
  image.alt = image.parentElement.querySelector("figcaption").textContent = caption;
});
result.addEventListener("input", event => {  // a slider, which has the pictures and captions of its slices
  const { pictures, captions } = event.target.dataset, figure = event.target.closest("figure");
  if (!pictures) return;
  figure.querySelector("img").src = pictures.split(" ")[event.target.value];
  figure.querySelector("figcaption").textContent = captions.split("|")[event.target.value];
});
