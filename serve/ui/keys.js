// The arrow keys move the focus among the tokens of an answer, which are one stop for the Tab key.
document.addEventListener("keydown", (event) => {
  const token = event.target instanceof Element ? event.target.closest(".chances .token") : null;
  if (!token) return;
  const tokens = [...token.parentElement.querySelectorAll(".token")], place = tokens.indexOf(token);
  const to = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: tokens.length - 1 }[event.key];
  if (to === undefined || !tokens[to]) return;
  event.preventDefault();
  token.tabIndex = -1;
  tokens[to].tabIndex = 0;
  tokens[to].focus();
});
