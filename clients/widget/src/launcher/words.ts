// What the launcher says before the chat part, which has the rest of the words, is loaded.

export interface LauncherWords {
  open: string;
  close: string;
  /** `{n}` is how many. */
  unread: string;
  failed: string;
}

const WORDS: Record<string, [open: string, close: string, unread: string, failed: string]> = {
  en: ["Open the chat", "Close the chat", "{n} unread", "The chat could not be loaded. Press to try again."],
  de: [
    "Chat öffnen",
    "Chat schließen",
    "{n} ungelesen",
    "Der Chat konnte nicht geladen werden. Zum erneuten Versuch drücken.",
  ],
  fr: [
    "Ouvrir la discussion",
    "Fermer la discussion",
    "{n} non lus",
    "La discussion n’a pas pu être chargée. Appuyez pour réessayer.",
  ],
  es: [
    "Abrir el chat",
    "Cerrar el chat",
    "{n} sin leer",
    "No se pudo cargar el chat. Pulse para reintentar.",
  ],
  it: [
    "Apri la chat",
    "Chiudi la chat",
    "{n} non letti",
    "Impossibile caricare la chat. Premi per riprovare.",
  ],
  pt: [
    "Abrir o chat",
    "Fechar o chat",
    "{n} não lidas",
    "Não foi possível carregar o chat. Prima para tentar de novo.",
  ],
  nl: [
    "Chat openen",
    "Chat sluiten",
    "{n} ongelezen",
    "De chat kon niet worden geladen. Druk om het opnieuw te proberen.",
  ],
  ar: ["افتح المحادثة", "أغلق المحادثة", "{n} غير مقروءة", "تعذّر تحميل المحادثة. اضغط للمحاولة مجددًا."],
};

/** The language of a locale that has words here, else English: `de-AT` is `de`. */
export function languageOf(locale: string): string {
  const language = locale.toLowerCase().split(/[-_]/)[0] as string;
  return Object.hasOwn(WORDS, language) ? language : "en";
}

/** The launcher's words; `strings` are those of the page, by name. */
export function launcherWords(locale: string, strings: Partial<Record<string, string>>): LauncherWords {
  const [open, close, unread, failed] = WORDS[languageOf(locale)] as [string, string, string, string];
  return { open, close, unread, failed, ...strings };
}

/** Whether a locale is written from right to left. */
export function isRightToLeft(locale: string): boolean {
  return /^(ar|dv|fa|he|ku|ps|ur|yi)\b/i.test(locale);
}
