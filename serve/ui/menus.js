// A menu that Tab or Shift+Tab leaves stays closed: gradio's handler of the keys runs after the blur that closes it, and opens it again.
window.addEventListener("keydown", (event) => {
  const input = event.target instanceof Element && event.target.closest("input[role=combobox]");
  if (!input || (event.key !== "Tab" && event.key !== "Shift")) return;
  event.stopPropagation();
  document.getElementById(input.getAttribute("aria-controls"))?.setAttribute("tabindex", "-1"); // no stop on the way
}, true);
