"""Whether what a browser draws can be read and reached: contrast, names of controls, where the keyboard is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

_CONTRAST = """() => {
  const canvas = document.createElement('canvas'); canvas.width = canvas.height = 1;
  const pen = canvas.getContext('2d', {willReadFrequently: true});
  const rgba = colour => { pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255]; };
  const over = (top, below) => [0, 1, 2].map(at => top[at] * top[3] + below[at] * (1 - top[3]));
  const part = value => { value /= 255; return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4; };
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const ratio = (one, other) => { const [low, high] = [light(one), light(other)].sort((a, b) => a - b); return (high + 0.05) / (low + 0.05); };
  const ground = element => { const layers = [];
    for (let at = element; at; at = at.parentElement) { const colour = rgba(getComputedStyle(at).backgroundColor); layers.push(colour);
      if (colour[3] === 1) break; }
    return layers.reverse().reduce((below, top) => over(top, below), rgba('Canvas').slice(0, 3)); };
  const faint = element => { let whole = 1;
    for (let at = element; at; at = at.parentElement) whole *= Number(getComputedStyle(at).opacity); return whole; };
  const found = new Map();
  const judge = (element, text, colour) => {
    const style = getComputedStyle(element), below = ground(element), px = parseFloat(style.fontSize);
    const drawn = rgba(colour); drawn[3] *= faint(element);
    const needed = px >= 24 || (px >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    const has = ratio(over(drawn, below), below);
    if (has < needed) found.set(`${element.tagName}.${element.className}: ${text.trim().slice(0, 40)}`, has.toFixed(2)); };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) { const node = walker.currentNode, element = node.parentElement;
    if (!node.data.trim() || !element.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (element.closest('script, style, [disabled], [aria-disabled=true], [hidden], .sr-only, iframe')) continue;
    const style = getComputedStyle(element);
    judge(element, node.data, element.closest('svg') ? style.fill : style.color); }
  for (const box of document.querySelectorAll('input[placeholder], textarea[placeholder]'))
    if (box.placeholder && !box.disabled && box.checkVisibility()) judge(box, box.placeholder, getComputedStyle(box, '::placeholder').color);
  return Object.fromEntries(found);
}"""

_NAMELESS = """() => [...document.querySelectorAll('button, input, textarea, select, a[href], iframe, [role=region], [role=tab]')]
  .filter(one => one.checkVisibility({visibilityProperty: true}) && one.type !== 'hidden' && !one.closest('[aria-hidden=true]'))
  .filter(one => { const by = one.getAttribute('aria-labelledby');
    return !(one.getAttribute('aria-label') || one.title || (by && document.getElementById(by)?.innerText)
      || [...(one.labels || [])].some(label => label.innerText.trim()) || one.closest('label')?.innerText.trim()
      || (one.matches('button, a, [role=tab]') && one.innerText.trim())); })
  .map(one => one.outerHTML.slice(0, 160))"""

_FOCUS = """() => { const one = document.activeElement;
  if (!one || one === document.body) return null;
  const ringed = at => { const style = getComputedStyle(at);
    return (style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0) || style.boxShadow !== 'none'; };
  let seen = false;
  for (let at = one, up = 0; at && up < 4; at = at.parentElement, up++) seen ||= ringed(at);
  return [seen, one.outerHTML.slice(0, 160)]; }"""


def faint(page: Page) -> dict[str, str]:
    """Texts that have less than 4.5:1 against what they stand on, or 3:1 where they are large (WCAG 2.2, 1.4.3)."""
    found: dict[str, str] = page.evaluate(_CONTRAST)
    return found


def nameless(page: Page) -> list[str]:
    """Controls without a name for a screen reader; a placeholder is none (WCAG 2.2, 4.1.2)."""
    found: list[str] = page.evaluate(_NAMELESS)
    return found


def unseen(page: Page, presses: int) -> list[str]:
    """What has the keyboard, after each press of Tab, without a sign of it (WCAG 2.2, 2.4.7)."""
    found = []
    for _ in range(presses):
        page.keyboard.press("Tab")
        told = page.evaluate(_FOCUS)
        if told is not None and not told[0]:
            found.append(told[1])
    return found
