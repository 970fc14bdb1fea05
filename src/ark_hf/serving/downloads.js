// What can be saved: a table of all files that were read, and a view with what stands below it. Made in the browser

function save(name, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// Spreadsheets take what begins so for a formula
const cell = value => {
  const text = value === null || value === undefined ? "" : String(value);
  const harmless = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? "'" + text : text;
  return /[",\r\n]/.test(harmless) ? `"${harmless.replaceAll('"', '""')}"` : harmless;
};

// `files` have a name, and rows and warnings of an answer or an error
function table(files) {
  const rows = files.flatMap(({ name, rows, warnings, error }) =>
    error ? [{ file: name, error }] : rows.map(row => ({ file: name, ...row, warnings: warnings.join("; ") })));
  const last = ["warnings", "error"], found = [...new Set(rows.flatMap(Object.keys))];
  const columns = [...found.filter(each => !last.includes(each)), ...last];
  return [columns, ...rows.map(row => columns.map(column => row[column]))]
    .map(row => row.map(cell).join(",") + "\r\n").join("");
}

// The view, the legend of what is over it, and the notice
function withCaption(view, lines, colours, notice) {
  const picture = view.drawn(), size = Math.max(12, Math.round(picture.width / 45)), step = 1.6 * size;
  const wrapped = [];
  const pen = drawing(picture), font = `${size}px system-ui, sans-serif`;
  pen.font = font;
  for (const line of [...lines, notice]) {
    let row = "";
    for (const word of line.split(" ")) {
      if (row && pen.measureText(`${row} ${word}`).width > picture.width - size) { wrapped.push(row); row = word; }
      else row = row ? `${row} ${word}` : word;
    }
    wrapped.push(row);
  }
  const canvas = blank(picture.width, picture.height + Math.ceil(step * (wrapped.length + colours.length) + size / 2));
  const context = drawing(canvas);
  context.fillStyle = "#000";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(picture, 0, 0);
  context.font = font;
  context.textBaseline = "middle";
  let y = picture.height + step / 2 + size / 4;
  for (const { colour, bar, text } of colours) {
    context.fillStyle = colour || "#fff";
    if (bar) context.drawImage(bar, size / 2, y - size / 2, 6 * size, size);
    else context.fillRect(size / 2, y - size / 2, size, size);
    context.fillStyle = "#fff";
    context.fillText(text, bar ? 7 * size : 2 * size, y);
    y += step;
  }
  for (const row of wrapped) {
    context.fillText(row, size / 2, y);
    y += step;
  }
  return canvas;
}
