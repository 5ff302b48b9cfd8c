// The page's words in both languages. `fill` puts them where `data-text` asks for them.

const WORDS = {
  now: ["Now", "现在"],
  photo: ["Try a photo", "试一张照片"],
  search: ["Try a search", "试一次搜索"],
  again: ["One photo again", "重新处理一张照片"],
  againAbout: [
    "Paste the address of a photo from Immich's address bar. Immich is asked with the login of this browser, if Immich is open under the same host name, or else with a key of yours.",
    "粘贴 Immich 地址栏里一张照片的地址。如果 Immich 用的是同一个主机名，就以本浏览器的登录身份询问 Immich，否则用您的 API 密钥。",
  ],
  againPhoto: ["Address of the photo", "照片的地址"],
  againKey: ["Immich API key (only without a login; it stays in this tab)", "Immich API 密钥（没有登录时才需要；只留在本标签页）"],
  makeAgain: ["Make again", "重新处理"],
  againDone: ["Queued in Immich: {jobs} jobs. It makes them in the background.", "已在 Immich 中加入 {jobs} 个任务，它会在后台处理。"],
  settings: ["Settings in force", "生效的设置"],
  keyWanted: ["This server asks for its key (MACHINE_LEARNING_API_KEY):", "这台服务器需要密钥（MACHINE_LEARNING_API_KEY）："],
  keyUse: ["Use it in this tab", "在本标签页中使用"],
  keyWrong: ["That key was not accepted.", "密钥不正确。"],
  device: ["Device", "设备"],
  runsOn: ["runs on", "运行于"],
  why: ["why", "原因"],
  version: ["version", "版本"],
  runtime: ["libraries", "程序库"],
  uptime: ["running for", "已运行"],
  memory: ["memory", "内存"],
  models: ["Models", "模型"],
  modelsAbout: [
    "A model is fetched and loaded when Immich first asks for it, and leaves memory when nobody uses it.",
    "模型在 Immich 第一次需要时下载并加载，没有人使用时离开内存。",
  ],
  noModels: [
    "No model has been asked for yet. Send a photo from Immich, or try one here.",
    "还没有用到任何模型。从 Immich 发送一张照片，或在这里试一张。",
  ],
  ready: ["ready", "就绪"],
  loading: ["on its way", "正在准备"],
  failed: ["cannot be had", "无法取得"],
  standin: ["stand-in", "临时替代"],
  absent: ["not in memory", "不在内存中"],
  answersFor: ["answers for", "代替"],
  tryAgainIn: ["tried again in", "将再次尝试："],
  inUse: ["in use", "使用中"],
  waiting: ["waiting", "排队"],
  idleFor: ["not used for", "已空闲"],
  kept: ["kept in memory", "常驻内存"],
  fetchNow: ["Fetch now", "现在下载"],
  fetching: ["Being fetched …", "正在下载……"],
  lastHour: ["The last hour", "最近一小时"],
  longestQueue: ["longest queue", "最长队列"],
  chartAbout: ["Photos in each of the last 60 minutes; the line is the longest queue.", "最近 60 分钟内每分钟的照片数；折线是最长的队列。"],
  photosLastHour: ["photos in the last hour", "最近一小时的照片"],
  photosLastMinute: ["in the last full minute", "上一分钟"],
  requestsWaiting: ["items waiting now", "现在排队的项目"],
  errors: ["Last errors", "最近的错误"],
  noErrors: ["None since the start.", "启动以来没有错误。"],
  ago: ["ago", "前"],
  photoAbout: [
    "Drop a photo here, choose one, or take one. It goes to this server and nowhere else; nothing of it is kept unless the search index is on.",
    "把照片拖到这里、选择一张，或者拍一张。它只发送到这台服务器；除非开启了搜索索引，否则不会保留。",
  ],
  choosePhoto: ["Choose a photo", "选择照片"],
  takePhoto: ["Take a photo", "拍一张照片"],
  choosePhotos: ["Choose photos", "选择几张照片"],
  lookFor: ["Look for", "识别内容"],
  text: ["text", "文字"],
  faces: ["faces", "人脸"],
  embedding: ["embedding (search)", "特征向量（搜索）"],
  modelNames: ["Which models", "使用哪些模型"],
  asCommand: ["The same as a command", "同样的请求，写成命令"],
  working: ["Working …", "处理中……"],
  noText: ["No text was found.", "没有找到文字。"],
  noFaces: ["No face was found.", "没有找到人脸。"],
  face: ["face", "人脸"],
  score: ["score", "得分"],
  numbers: ["numbers", "个数字"],
  copyAll: ["Copy all", "全部复制"],
  copied: ["Copied", "已复制"],
  answeredBy: ["answered by", "由此模型回答"],
  searchAbout: [
    "Type words and drop a handful of photos: they are ranked by how near they are to the words for this CLIP model, as Immich ranks. What counts is the order.",
    "输入文字，再拖入几张照片：它们按这个 CLIP 模型的相似度排序，与 Immich 的排序方法相同。重要的是顺序。",
  ],
  words: ["Words", "文字"],
  searchNow: ["Search", "搜索"],
  indexed: ["What the text index finds", "文字索引找到的内容"],
  indexedAbout: ["{matches} of {photos} photos, in {milliseconds} ms", "{photos} 张照片中有 {matches} 张，用时 {milliseconds} 毫秒"],
  noMatch: ["no photo has this text", "没有照片含有这些文字"],
  tierExact: ["exact", "完全一致"],
  tierLines: ["across lines", "跨行"],
  tierMisread: ["one character differs", "有一个字不同"],
  settingsAbout: [
    "Every variable of this server, as it was read at the start. Secrets are hidden.",
    "这台服务器的每个变量，以启动时读到的为准。密钥不显示。",
  ],
  filter: ["Filter", "筛选"],
  variable: ["variable", "变量"],
  value: ["value", "值"],
  from: ["from", "来自"],
  default: ["default", "默认值"],
  environment: ["environment", "环境变量"],
  byDefault: ["default", "默认"],
  unknown: ["unknown: it does nothing", "未知变量：不起作用"],
  unknownNear: ["unknown; is {near} meant?", "未知变量；是否想写 {near}？"],
  hidden: ["(hidden)", "（已隐藏）"],
  unreachable: ["The server does not answer. Is it running?", "服务器没有回答。它在运行吗？"],
};

const LANGUAGE = "immich-ml-cn language";
const listeners = [];

export const language = () =>
  localStorage.getItem(LANGUAGE) || ((navigator.language || "").toLowerCase().startsWith("zh") ? "zh" : "en");

export function word(name, values = {}) {
  const text = WORDS[name][language() === "zh" ? 1 : 0];
  return text.replace(/\{(\w+)\}/g, (_, key) => values[key]);
}

export const onLanguage = (listener) => listeners.push(listener);

export function speak(chosen) {
  localStorage.setItem(LANGUAGE, chosen);
  fill();
  listeners.forEach((listener) => listener());
}

export function fill(root = document) {
  document.documentElement.lang = language() === "zh" ? "zh-CN" : "en";
  for (const place of root.querySelectorAll("[data-text]")) place.textContent = word(place.dataset.text);
  for (const button of document.querySelectorAll("[data-language]"))
    button.setAttribute("aria-pressed", String(button.dataset.language === language()));
}

export const megabytes = (bytes) => `${Math.round(bytes / 1e6).toLocaleString()} MB`;

export function duration(seconds) {
  const units = language() === "zh" ? ["秒", "分钟", "小时", "天"] : ["s", "min", "h", "days"];
  const [divisor, unit] =
    seconds < 90 ? [1, 0] : seconds < 5400 ? [60, 1] : seconds < 172800 ? [3600, 2] : [86400, 3];
  return `${Math.round(seconds / divisor)} ${units[unit]}`;
}
