// What a reader sees of a model. A page has <div data-piny="story" data-model="NAME"></div> and this
// script; engine.js, piny.css and NAME.js lie beside it, and NAME.js is loaded when it is asked for.
'use strict'

;(() => {
const HERE = document.currentScript.src
const beside = name => new URL(name, HERE).href

const loading = {}
function load(name) { // a script that lies beside this one, once
  return loading[name] ||= new Promise((resolve, reject) => {
    const script = make('script', {src: beside(name)})
    script.onload = resolve
    script.onerror = () => {
      delete loading[name]
      reject(new Error(`${name} could not be loaded`))
    }
    document.head.append(script)
  })
}

async function open(name) { // a model, ready to be read with, and its tokenizer
  await load('engine.js')
  await load(`${name}.js`)
  const file = piny.files[name]
  return {file, model: new piny.Model(file), tok: piny.tokenizer(file.tokenizer)}
}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value)
    else if (value !== false) element.setAttribute(name, value)
  }
  element.append(...children)
  return element
}

const percent = p => `${(100 * p).toFixed(p < .1 || p > .99 ? 1 : 0)} %`
const count = n => n.toLocaleString('en')

// -- a story that is being told: the words so far, and for each what could have stood there

const MOST = 400 // tokens of a story
const BUDGET = 24 // milliseconds of a frame that are spent on telling

class Teller {
  constructor({file, model, tok}) {
    Object.assign(this, {file, model, tok})
    this.begin('')
  }

  begin(opening) {
    this.opening = piny.start(this.tok, opening)
    this.places = [] // {id, logits, seen, start}: what was taken, and from what
    this.look()
  }

  get ids() { return [...this.opening, ...this.places.map(place => place.id)] }
  get isAtEnd() {
    const last = this.places.at(-1)
    return this.places.length >= MOST || last !== undefined && this.isMark(last.id)
  }
  get last() { return this.places.length - (this.isAtEnd ? 1 : 0) } // place that can be looked at
  isMark(id) { return id === this.tok.eos_id || id === this.tok.bos_id }

  look() { // at what could follow
    if (this.isAtEnd) { this.next = null; return }
    const logits = this.model.read(this.ids)
    this.next = {logits, seen: this.model.seen, start: this.model.start, filled: this.model.cache.filled}
  }

  take(id) {
    this.places.push({...this.next, id})
    this.look()
  }

  drawn(how, seed) { // the token that follows
    const tokens = piny.ranked(this.next.logits, how.temperature)
    return piny.draw(tokens, how, piny.uniform(seed, this.opening.length + this.places.length)).id
  }

  back(n) { // to the n-th place, as if no more had been told
    this.places.length = n
    this.look()
  }

  at(n) { return this.places[n] || this.next }

  text(n) { // that the n-th token adds to the ones before; '' for the beginning of a letter
    const ids = this.places.slice(0, n + 1).map(place => place.id).filter(id => !this.isMark(id))
    const whole = ids => piny.textAfter(this.tok, this.opening.at(-1), ids.slice(-12))
    const recent = whole(ids)
    const before = whole(ids.slice(0, -1).slice(ids.length > 12 ? -11 : 0))
    if (this.isMark(this.places[n].id)) return ' ∎'
    if (recent.endsWith('�')) return ''
    return recent.slice(before.replace(/�+$/, '').length)
  }

  label(id) { // of a token by itself, with a visible space
    if (this.isMark(id)) return 'the end'
    const text = new TextDecoder().decode(Uint8Array.from(this.tok.bytes(id)))
    const bytes = this.tok.bytes(id).map(byte => byte.toString(16).padStart(2, '0')).join(' ')
    if (text.includes('�') || !text.length) return `byte ${bytes}`
    return text.replace(/ /g, '␣').replace(/\n/g, '⏎')
  }
}

// -- controls that widgets share

const SLIDERS = { // label, least, most, step, what it is at first, what it does
  temperature: ['temperature', 0, 2, .1, .8, '0 takes the most probable word, 1 draws as the model says'],
  top_k: ['top-k', 0, 60, 1, 0, 'keeps so many words; 0: all'],
  top_p: ['top-p', .05, 1, .05, .95, 'keeps the words that together have this probability; 1: all'],
  min_p: ['min-p', 0, .5, .01, 0, 'keeps words at least so many times as probable as the first; 0: all'],
}

let lastId = 0
const newId = () => `piny-${lastId++}`

function labelled(text, control) { // a control below its name
  control.id = newId()
  return make('div', {class: 'piny-field'}, make('label', {for: control.id}, text), control)
}

function sliders(changed) { // the four of them, and what they say
  const how = {}
  const fields = Object.entries(SLIDERS).map(([name, [title, min, max, step, value, help]]) => {
    const shown = make('output', {}, String(value))
    const range = make('input', {type: 'range', min, max, step, value, title: help, oninput: () => {
      how[name] = Number(range.value)
      shown.textContent = range.value
      changed()
    }})
    how[name] = value
    range.id = newId()
    shown.htmlFor = range.id
    return make('div', {class: 'piny-slider'}, make('label', {for: range.id}, title), range, shown)
  })
  return [how, make('div', {class: 'piny-sliders', role: 'group', 'aria-label': 'How a word is drawn'}, ...fields)]
}

// -- the widget of one model

const TOP = 12 // words that are shown of what could follow

class Story {
  constructor(root) {
    this.root = root
    this.name = root.dataset.model || 'stories-1m'
    this.selected = 0 // the place that is looked at
    this.head = null  // [layer, head] whose attention is shown; null: the mean of all
    this.isRunning = false
    this.build()
  }

  build() {
    const opening = this.root.dataset.opening || 'Once upon a time'
    this.opening = make('textarea', {rows: 2, spellcheck: 'false'})
    this.opening.value = opening
    this.seed = make('input', {type: 'number', min: 0, max: 999999, step: 1, value: 0})
    const [how, group] = sliders(() => this.show())
    this.how = how
    const button = (text, act, kind = '') =>
      make('button', {type: 'button', class: kind, onclick: () => this.act(act)}, text)
    this.buttons = make('div', {class: 'piny-buttons'},
      button('Tell', () => this.tell(), 'piny-first'),
      button('Stop', () => this.stop()),
      button('One word', () => this.oneWord()),
      button('Go on', () => this.run()),
      button('Another seed', () => this.another()))
    this.status = make('p', {class: 'piny-status', role: 'status'}, 'The model is loaded when you press Tell.')
    this.story = make('div', {class: 'piny-story', role: 'group', 'aria-label': 'The story; a word shows what else could stand there'})
    this.story.addEventListener('keydown', event => this.move(event))
    this.words = make('div', {class: 'piny-panel'})
    this.heads = make('div', {class: 'piny-panel'})
    this.kept = make('div', {class: 'piny-panel'})
    this.panels = make('div', {class: 'piny-panels', hidden: ''}, this.words,
      make('div', {}, this.heads, this.kept))
    this.root.replaceChildren(
      labelled('How the story begins', this.opening),
      make('div', {class: 'piny-row'}, this.buttons, labelled('Seed', this.seed)),
      group, this.status, this.story, this.panels)
  }

  async act(act) { // with the model, which is loaded first
    try {
      if (!this.teller) {
        this.status.textContent = 'Loading the model …'
        this.teller = new Teller(await open(this.name))
        this.restart()
        this.panels.hidden = false
      }
      act()
    } catch (error) {
      this.status.textContent = `That did not work: ${error.message}.`
    }
  }

  restart() {
    this.told = this.opening.value
    this.teller.begin(this.told)
    this.story.replaceChildren(...this.teller.opening.map((id, i) => make('span', {class: 'piny-token'},
      i ? this.teller.tok.decode(this.teller.opening.slice(0, i + 1)).slice(
        this.teller.tok.decode(this.teller.opening.slice(0, i)).length) : '▸')))
    this.selected = 0
  }

  tell() {
    this.restart()
    this.run()
  }

  another() {
    this.seed.value = Math.floor(Math.random() * 1e6)
    this.tell()
  }

  oneWord() {
    this.stop()
    if (this.told !== this.opening.value) this.restart()
    this.step()
    this.show()
  }

  stop() {
    this.isRunning = false
    this.show()
  }

  step() {
    if (this.teller.isAtEnd) return
    this.teller.take(this.teller.drawn(this.how, Number(this.seed.value)))
    this.selected = this.teller.last
  }

  run() { // as many words as fit into a frame, frame by frame
    if (this.isRunning) return
    this.isRunning = true
    this.status.textContent = 'Telling …'
    const began = performance.now()
    const already = this.teller.places.length
    const frame = () => {
      const until = performance.now() + BUDGET
      while (this.isRunning && !this.teller.isAtEnd && performance.now() < until) this.step()
      const n = this.teller.places.length - already
      this.speed = 1000 * n / (performance.now() - began)
      if (this.teller.isAtEnd) this.isRunning = false
      if (!this.isRunning) { this.show(); return }
      this.showStory() // the other panels wait for the end
      this.showKept(this.teller.at(this.selected))
      requestAnimationFrame(frame)
    }
    frame()
  }

  pick(id) { // another word at the selected place; the story goes on from there
    const isReplaced = this.selected < this.teller.places.length
    this.isRunning = false
    this.teller.back(this.selected)
    this.teller.take(id)
    this.selected = this.teller.last
    this.show()
    if (isReplaced) this.run()
  }

  move(event) { // from word to word by the arrow keys
    if (event.key === 'Enter' || event.key === ' ') event.target.click()
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key]
    if (!step || !this.teller) return
    event.preventDefault()
    this.select(Math.max(0, Math.min(this.teller.last, this.selected + step)))
    this.tokens[this.selected]?.focus()
  }

  select(n) {
    this.isRunning = false
    this.selected = n
    this.show()
  }

  get tokens() { return this.story.querySelectorAll('[role=button]') }

  show() {
    if (!this.teller) return
    this.showStory()
    const place = this.teller.at(this.selected)
    this.showWords(place)
    this.showHeads(place)
    this.showKept(place)
    const n = this.teller.places.length
    const speed = this.speed ? `, ${count(Math.round(this.speed))} a second` : ''
    const state = this.isRunning ? '' : this.teller.isAtEnd ? ' The story is at its end.' : ' Go on, or pick a word.'
    if (!this.isRunning) this.status.textContent = `${n} tokens${speed}.${state}`
  }

  showStory() {
    const {places} = this.teller
    const shown = [...this.tokens]
    for (const extra of shown.splice(places.length + 1)) extra.remove()
    for (let n = 0; n <= places.length; n++) {
      const text = n < places.length ? this.teller.text(n) : this.teller.isAtEnd ? '' : ' …'
      const word = shown[n] || this.story.appendChild(
        make('span', {role: 'button', class: 'piny-token', onclick: () => this.select(n)}))
      if (word.textContent !== text) word.textContent = text
      word.hidden = !text
      word.tabIndex = n === this.selected ? 0 : -1
      word.setAttribute('aria-current', n === this.selected)
      const isPlain = n < places.length && text.trim() && text !== ' ∎'
      const name = isPlain ? '' : n < places.length ? this.teller.label(places[n].id) : 'the next word'
      if (name) word.setAttribute('aria-label', name)
      else word.removeAttribute('aria-label')
    }
  }

  showWords({logits, id}) { // what could stand at a place, and which cut takes what
    const all = piny.ranked(logits, this.how.temperature)
    const isTold = this.selected < this.teller.places.length
    const first = all[0].p
    const rows = all.slice(0, TOP).map(one => {
      const by = piny.removedBy(one, all[0], this.how)
      const isTaken = isTold && one.id === id
      const label = this.teller.label(one.id)
      const says = `${label}, ${percent(one.p)}${by ? `, taken out by ${by}` : ''}${isTaken ? ', drawn' : ''}`
      return make('li', {}, make('button',
        {type: 'button', class: by ? 'piny-cut' : '', 'aria-label': says, 'aria-current': isTaken,
         style: `--p: ${one.p / first}`, onclick: () => this.pick(one.id)},
        make('span', {class: 'piny-word'}, label), make('span', {class: 'piny-by'}, by), make('span', {}, percent(one.p))))
    })
    const title = isTold ? 'What could stand here' : 'What could follow'
    this.words.replaceChildren(make('p', {class: 'piny-title'}, title), make('ol', {class: 'piny-choices'}, ...rows), this.cuts(all))
  }

  cuts(all) { // in a sentence
    const taken = {}
    for (const one of all) {
      const by = piny.removedBy(one, all[0], this.how)
      if (!by) continue
      const sum = taken[by] ||= {n: 0, p: 0}
      sum.n++
      sum.p += one.p
    }
    const says = Object.entries(taken).map(([by, {n, p}]) => `${by} takes ${count(n)} of ${count(all.length)} tokens, ` +
                                                            `which have ${percent(p)} together`)
    return make('p', {}, says.length ? `${says.join('; ')}.` : `Nothing is cut: any of ${count(all.length)} tokens may be drawn.`)
  }

  showHeads({seen, start}) { // what each head looks at, drawn below the words
    const mean = seen[0][0].map((_, s) => seen.flat().reduce((sum, weights) => sum + weights[s], 0) / seen.flat().length)
    const weights = this.head ? seen[this.head[0]][this.head[1]] : mean
    const spans = this.story.children
    const largest = weights.reduce((a, b) => Math.max(a, b), 0)
    for (let i = 0; i < spans.length; i++) {
      spans[i].style.setProperty('--w', (weights[i - start] || 0) / largest)
    }
    const named = i => spans[i + start] ? `“${spans[i + start].textContent.trim() || '␣'}”` : '…'
    const most = weights => Array.from(weights.keys()).sort((a, b) => weights[b] - weights[a]).slice(0, 3)
    const button = (text, head, says) => make('button', {type: 'button', 'aria-label': says,
      'aria-pressed': String(head) === String(this.head), onclick: () => {
        this.head = head
        this.show()
        this.heads.querySelector('[aria-pressed=true]').focus()
      }}, text)
    const rows = seen.map((layer, l) => make('div', {class: 'piny-layer'}, make('span', {}, `layer ${l + 1}`),
      ...layer.map((weights, h) => button(String(h + 1), [l, h],
        `layer ${l + 1}, head ${h + 1}, looks most at ${named(most(weights)[0])}`))))
    const who = this.head ? `Head ${this.head[1] + 1} of layer ${this.head[0] + 1} looks` : 'All heads together look'
    const says = most(weights).map(i => `${named(i)} (${percent(weights[i])})`).join(', ')
    this.heads.replaceChildren(make('p', {class: 'piny-title'}, 'What the heads look at'),
      make('div', {class: 'piny-heads'}, button('all heads', null, 'the mean of all heads'), ...rows),
      make('p', {}, `${who} most at ${says}. The colour of each word of the story is its share, as high as the word for the largest; ▸ is the mark for the beginning.`))
  }

  showKept({filled, start}) { // the cache
    const {cfg} = this.teller.model
    const each = 2 * cfg.n_layers * cfg.n_kv_heads * cfg.dim / cfg.n_heads
    const meter = make('meter', {min: 0, max: cfg.max_seq_len, value: filled, 'aria-label': 'tokens in the cache'})
    const forgotten = start ? ` The first ${start} tokens of the text are forgotten.` : ''
    this.kept.replaceChildren(make('p', {class: 'piny-title'}, 'The cache'), meter,
      make('p', {}, `${filled} of at most ${cfg.max_seq_len} tokens. For each a key and a value are kept: ${cfg.n_layers} layers × ` +
        `${cfg.n_kv_heads} heads × ${cfg.dim / cfg.n_heads} numbers, twice: ${count(each)} numbers a token, ` +
        `${(each * filled * 4 / 1024).toFixed(1)} KB in all.${forgotten}`))
  }
}

// -- two models side by side: one opening, one seed, the same random numbers

const shown = name => name.split('-').at(-1).replaceAll('_', ' ') // STUDY-no_rope: no rope

class Pair {
  constructor(root) {
    this.root = root
    this.names = root.dataset.models.split(' ') // the baseline first
    this.build()
  }

  build() {
    const [baseline, ...variants] = this.names
    this.opening = make('textarea', {rows: 2, spellcheck: 'false'})
    this.opening.value = this.root.dataset.opening || 'Once upon a time'
    this.seed = make('input', {type: 'number', min: 0, max: 999999, step: 1, value: 0})
    this.which = make('select', {onchange: () => this.tell()}, ...variants.map(name => make('option', {value: name}, shown(name))))
    const [how, group] = sliders(() => {})
    this.how = how
    this.status = make('p', {class: 'piny-status', role: 'status'}, 'The two models are loaded when you press Tell.')
    this.columns = make('div', {class: 'piny-columns'})
    this.root.replaceChildren(
      labelled('How both stories begin', this.opening),
      make('div', {class: 'piny-row'},
        make('div', {class: 'piny-buttons'},
          make('button', {type: 'button', class: 'piny-first', onclick: () => this.tell()}, 'Tell'),
          make('button', {type: 'button', onclick: () => this.another()}, 'Another seed')),
        labelled(`Beside the ${shown(baseline)}`, this.which), labelled('Seed', this.seed)),
      group, this.status, this.columns)
  }

  another() {
    this.seed.value = Math.floor(Math.random() * 1e6)
    this.tell()
  }

  async tell() {
    const names = [this.names[0], this.which.value]
    const turn = this.turn = (this.turn || 0) + 1 // a later press ends this telling
    this.status.textContent = 'Loading the models …'
    try {
      const opened = []
      for (const name of names) opened.push(await open(name))
      if (turn !== this.turn) return
      this.status.textContent = 'One opening, one seed, and for each place in the text one random number, with which both draw.'
      const columns = opened.map(one => this.column(one))
      this.columns.replaceChildren(...columns.map(({element}) => element))
      this.run(columns, turn)
    } catch (error) {
      this.status.textContent = `That did not work: ${error.message}.`
    }
  }

  column(opened) {
    const teller = new Teller(opened)
    teller.begin(this.opening.value)
    const text = make('p', {class: 'piny-told'})
    const element = make('section', {}, make('p', {class: 'piny-title'}, shown(opened.file.name)), text, make('p', {}, opened.file.about))
    return {teller, text, element}
  }

  run(columns, turn) {
    const {how} = this
    const seed = Number(this.seed.value)
    const frame = () => {
      const until = performance.now() + BUDGET
      const open = () => turn === this.turn && columns.some(({teller}) => !teller.isAtEnd)
      while (open() && performance.now() < until) {
        for (const {teller} of columns) if (!teller.isAtEnd) teller.take(teller.drawn(how, seed))
      }
      for (const {teller, text} of columns) {
        const ids = teller.places.map(place => place.id).filter(id => !teller.isMark(id))
        text.replaceChildren(make('b', {}, this.opening.value), piny.textAfter(teller.tok, teller.opening.at(-1), ids))
      }
      if (open()) requestAnimationFrame(frame)
      else if (turn === this.turn) this.status.textContent = 'Both stories are told.'
    }
    frame()
  }
}

// -- what fewer seeds would have told of a study

class Seeds {
  constructor(root) {
    this.root = root
    this.build().catch(error => { root.textContent = `That did not work: ${error.message}.` })
  }

  async build() {
    await load('seeds.js')
    await load(`${this.root.dataset.study}-seeds.js`)
    this.study = pinySeeds.studies[this.root.dataset.study]
    this.most = Math.max(...Object.keys(this.study.designs).map(Number))
    const shown = make('output', {}, String(this.most))
    const range = make('input', {type: 'range', min: 2, max: this.most, step: 1, value: this.most, id: newId(),
      oninput: () => {
        shown.textContent = range.value
        this.show(Number(range.value))
      }})
    this.table = make('tbody')
    this.words = make('p', {role: 'status'})
    const head = ['variant', 'difference, bits per byte', 'verdict'].map(name => make('th', {scope: 'col'}, name))
    this.root.replaceChildren(
      make('div', {class: 'piny-slider'}, make('label', {for: range.id}, 'seeds'), range, shown),
      make('table', {}, make('thead', {}, make('tr', {}, ...head)), this.table), this.words)
    this.all = pinySeeds.compare(this.study, this.most)
    this.show(this.most)
  }

  show(n) {
    const signed = x => `${x < 0 ? '−' : '+'}${Math.abs(x).toFixed(4)}`
    const rows = Object.entries(pinySeeds.compare(this.study, n)).map(([name, {mean, low, high, verdict}]) => {
      const was = verdict === this.all[name].verdict ? '' : ` (with all: ${this.all[name].verdict})`
      return make('tr', {}, make('th', {scope: 'row'}, name.replaceAll('_', ' ')),
        make('td', {}, `${signed(mean)} [${signed(low)}, ${signed(high)}]`), make('td', {}, verdict, make('b', {}, was)))
    })
    this.table.replaceChildren(...rows)
    const turned = percent(pinySeeds.reversed(this.study, n))
    this.words.textContent = `The first ${n} of ${this.most} seeds of each variant. Of all ways to choose ${n}, ` +
      `and of all pairs of variants, ${turned} stand the other way round than with all seeds.`
  }
}

// -- every widget of the page

const KINDS = {story: Story, pair: Pair, seeds: Seeds}

function begin() {
  document.head.append(make('link', {rel: 'stylesheet', href: beside('piny.css')}))
  for (const root of document.querySelectorAll('[data-piny]:not(.piny)')) {
    root.classList.add('piny')
    new KINDS[root.dataset.piny](root)
  }
}

if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', begin)
else begin()
})()
