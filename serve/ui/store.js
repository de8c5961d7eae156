// What the page keeps in the visitor's browser: conversations, and each model's system prompt. The page's server keeps none.
// localStorage: ptune/chat/ID holds a conversation (thread.py), ptune/systems the prompts; sessionStorage: ptune/open, the
// conversation that this tab shows.
window.ptune = (() => {
  const CHAT = "ptune/chat/", SYSTEMS = "ptune/systems", OPEN = "ptune/open";
  const MOST = 4_000_000; // characters of all conversations; browsers give about 5 million to a page

  const keys = () => Object.keys(localStorage).filter((key) => key.startsWith(CHAT));

  // A conversation, or null if something else lies there.
  const parsed = (text) => {
    try {
      const chat = JSON.parse(text);
      const whole = typeof chat?.id === "string" && Array.isArray(chat.turns)
        && chat.turns.every((turn) => typeof turn?.question === "string" && Array.isArray(turn.answers));
      return whole ? chat : null;
    } catch {
      return null;
    }
  };
  const text_of = (id) => localStorage.getItem(CHAT + id) ?? "";
  const chats = () => keys().map((key) => parsed(localStorage.getItem(key))).filter(Boolean)
    .sort((one, other) => other.changed_s - one.changed_s);

  const said = (chat) => [chat.title, ...chat.turns.flatMap((turn) => [turn.question,
    ...turn.answers.flatMap((answer) => [answer?.text, answer?.correction, answer?.model])])]
    .join("\n").toLowerCase();

  // Makes room by removing the conversations that were changed the longest ago.
  const make_room = (needed, kept) => {
    const old = chats().reverse().filter((chat) => chat.id !== kept);
    const used = () => keys().filter((key) => key !== CHAT + kept)
      .reduce((sum, key) => sum + localStorage.getItem(key).length, 0);
    while (old.length && used() + needed > MOST) localStorage.removeItem(CHAT + old.shift().id);
    return old;
  };

  const read_systems = () => {
    try {
      return Object(JSON.parse(localStorage.getItem(SYSTEMS) ?? "{}"));
    } catch {
      return {};
    }
  };

  return {
    // The list for the page: JSON of [[id, title, changed_s], …], newest first; words: all have to be in a conversation.
    list: (words) => {
      const wanted = (words ?? "").toLowerCase().split(/\s+/).filter(Boolean);
      return JSON.stringify(chats()
        .filter((chat) => { const text = said(chat); return wanted.every((word) => text.includes(word)); })
        .map((chat) => [chat.id, String(chat.title ?? ""), Number(chat.changed_s)]));
    },

    // The JSON of all conversations as a list.
    all: () => JSON.stringify(chats()),

    read: (id) => {
      sessionStorage.setItem(OPEN, id);
      return text_of(id);
    },

    // Keeps a conversation; "" if that worked, or else what is wrong. No text: this tab shows none from now on.
    write: (text) => {
      const chat = parsed(text);
      if (!chat) {
        sessionStorage.removeItem(OPEN);
        return "";
      }
      sessionStorage.setItem(OPEN, chat.id);
      if (text.length > MOST) return "This conversation is too large to be kept in the browser.";
      const old = make_room(text.length, chat.id);
      for (;;) {
        try {
          localStorage.setItem(CHAT + chat.id, text);
          return "";
        } catch {
          if (!old.length) return "The browser has no room for this conversation, or keeps nothing of this page.";
          localStorage.removeItem(CHAT + old.shift().id);
        }
      }
    },

    rename: (id, title) => {
      const chat = parsed(text_of(id));
      if (chat && title.trim()) localStorage.setItem(CHAT + id, JSON.stringify({ ...chat, title: title.trim().slice(0, 300) }));
    },

    remove: (id) => localStorage.removeItem(CHAT + id),

    // The conversation that this tab showed before it was loaded again.
    open: () => text_of(sessionStorage.getItem(OPEN) ?? ""),

    system: (model) => {
      const prompt = read_systems()[model];
      return typeof prompt === "string" ? prompt : "";
    },

    keep_system: (model, prompt) => {
      const { [model]: _, ...others } = read_systems();
      const kept = prompt.trim() ? { ...others, [model]: prompt } : others;
      try {
        localStorage.setItem(SYSTEMS, JSON.stringify(kept));
      } catch { /* it holds until the page is closed */ }
    },

    // Hands the visitor a file.
    download: (text, name) => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: "application/jsonl" }));
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    },
  };
})();
