// Search in a site that is opened as files: browsers start no Worker from a file, so its script is
// run in a hidden frame. The theme looks for the name IFrameWorker.
window.IFrameWorker = class extends EventTarget {
  constructor(url) {
    super()
    const frame = document.createElement("iframe")
    frame.hidden = true
    document.body.append(frame)
    const inside = frame.contentWindow
    const own = inside.document
    this.onmessage = this.onerror = null
    // What the script posts arrives here, and what is posted here arrives there.
    inside.postMessage = data => this.arrive(data)
    inside.importScripts = (...urls) =>
      urls.reduce((before, each) => before.then(() => load(own, each)), Promise.resolve())
    this.inside = inside
    this.loaded = load(own, url)
  }

  arrive(data) {
    const event = new MessageEvent("message", { data })
    this.dispatchEvent(event)
    this.onmessage?.(event)
  }

  postMessage(data) {
    this.loaded.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })))
  }

  terminate() {
    this.inside.frameElement.remove()
  }
}

function load(where, url) {
  return new Promise((done, failed) => {
    const script = where.createElement("script")
    script.src = new URL(url, document.baseURI).href
    script.onload = done
    script.onerror = failed
    where.body.append(script)
  })
}

if (location.protocol === "file:") window.Worker = window.IFrameWorker
