// What is copied from an answer is what the model wrote: without the invisible characters of neutral.py and maths.py.
(() => {
  const written = (text) => text.replace(/[\u2060\u2063]/g, "");
  const clipboard = navigator.clipboard; // only where the page is on this machine, or behind TLS
  if (clipboard) {
    const write = clipboard.writeText.bind(clipboard);
    clipboard.writeText = (text) => write(written(text));
  }
  document.addEventListener("copy", (event) => {
    const text = String(getSelection());
    if (written(text) === text) return;
    event.clipboardData.setData("text/plain", written(text));
    event.preventDefault();
  });
})();
