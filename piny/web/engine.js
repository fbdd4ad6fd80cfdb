// A trained model of piny in plain JavaScript: its tokenizer, its parts, its cache, and how a token
// is drawn. Every part has piny's own name. D is the width of the stream, V the vocabulary, H the
// heads, K the key/value heads, Dh the width of a head.
'use strict'

const piny = (() => {

function choose(table, name, slot) {
  if (Object.hasOwn(table, name)) return table[name]
  throw new Error(`unknown ${slot} '${name}'; known: ${Object.keys(table).join(', ')}`)
}

// -- the file of a model: a script that calls `piny.add` with plain values

const files = {}
const add = file => { files[file.name] = file }

const DIGITS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'

function bytesOf(base64) {
  const value = new Uint8Array(128)
  for (let i = 0; i < 64; i++) value[DIGITS.charCodeAt(i)] = i
  const padding = base64.length - base64.replace(/=+$/, '').length
  const bytes = new Uint8Array(base64.length / 4 * 3 - padding)
  for (let i = 0, at = 0; i < base64.length; i += 4) {
    let word = 0
    for (let j = 0; j < 4; j++) word = word << 6 | value[base64.charCodeAt(i + j)]
    for (let shift = 16; shift >= 0; shift -= 8) bytes[at++] = word >> shift // past the end: nothing
  }
  return bytes
}

function half(bits) { // the number that 16 bits stand for
  const sign = bits >> 15 ? -1 : 1
  const exponent = bits >> 10 & 31
  const fraction = (bits & 1023) / 1024
  return exponent ? sign * (1 + fraction) * 2 ** (exponent - 15) : sign * fraction * 2 ** -14
}

function tensorsOf(file) { // from a parameter's name to its numbers, row by row
  const bytes = bytesOf(file.weights)
  const numbers = Float32Array.from({length: 65536}, (_, bits) => half(bits))
  const tensors = {}
  let at = 0
  for (const [name, shape] of file.shapes) {
    const n = shape.reduce((a, b) => a * b, 1)
    const tensor = tensors[name] = new Float32Array(n)
    for (let i = 0; i < n; i++, at += 2) tensor[i] = numbers[bytes[at] | bytes[at + 1] << 8]
  }
  return tensors
}

// -- vectors

function times(weight, x, bias) { // (out, in) times (in,), plus (out,)
  const nIn = x.length
  const out = new Float32Array(weight.length / nIn)
  for (let o = 0, w = 0; o < out.length; o++) {
    let a = 0, b = 0, i = 0
    for (; i + 1 < nIn; i += 2, w += 2) { // two sums, which a processor adds side by side
      a += weight[w] * x[i]
      b += weight[w + 1] * x[i + 1]
    }
    if (i < nIn) a += weight[w++] * x[i]
    out[o] = a + b + (bias ? bias[o] : 0)
  }
  return out
}

const linear = (tensors, name) => x => times(tensors[name + '.weight'], x, tensors[name + '.bias'])
const plus = (x, y) => x.map((value, i) => value + y[i])
const product = (x, y) => x.map((value, i) => value * y[i])
const mean = x => x.reduce((a, b) => a + b, 0) / x.length

function softmax(x, temperature = 1) {
  const most = x.reduce((a, b) => Math.max(a, b), -Infinity)
  const p = x.map(value => Math.exp((value - most) / temperature))
  const sum = p.reduce((a, b) => a + b, 0)
  return p.map(value => value / sum)
}

// -- the parts: each takes its weights, and gives a function of a vector

const NORMS = {
  rmsnorm(tensors, name, eps) {
    const weight = tensors[name + '.weight']
    return x => {
      const scale = 1 / Math.sqrt(mean(product(x, x)) + eps)
      return x.map((value, i) => value * scale * weight[i])
    }
  },
  layernorm(tensors, name, eps) {
    const weight = tensors[name + '.weight']
    const bias = tensors[name + '.bias']
    return x => {
      const centre = mean(x)
      const scale = 1 / Math.sqrt(mean(x.map(value => (value - centre) ** 2)) + eps)
      return x.map((value, i) => (value - centre) * scale * weight[i] + bias[i])
    }
  },
  none: () => x => x,
}

const silu = value => value / (1 + Math.exp(-value))
const relu = value => Math.max(0, value)
const gelu = value => value * (1 + erf(value * Math.SQRT1_2)) / 2

function erf(value) { // Abramowitz & Stegun 1964, 7.1.26: within 1.5e-7
  const t = 1 / (1 + .3275911 * Math.abs(value))
  const factors = [1.061405429, -1.453152027, 1.421413741, -.284496736, .254829592]
  const rest = factors.reduce((sum, factor) => (sum + factor) * t, 0) * Math.exp(-value * value)
  return Math.sign(value) * (1 - rest)
}

const gated = act => (tensors, name) => {
  const [gate, up, down] = ['.gate', '.up', '.down'].map(map => linear(tensors, name + map))
  return x => down(product(gate(x).map(act), up(x)))
}

const ungated = act => (tensors, name) => {
  const [up, down] = ['.up', '.down'].map(map => linear(tensors, name + map))
  return x => down(up(x).map(act))
}

const deepGated = act => (tensors, name) => {
  const [up, pair, down] = ['.up', '.pair', '.down'].map(map => linear(tensors, name + map))
  return x => {
    const both = pair(up(x))
    const middle = both.length / 2
    return down(product(both.subarray(0, middle).map(act), both.subarray(middle)))
  }
}

const FEEDFORWARDS = {
  swiglu: gated(silu),
  geglu: gated(gelu),
  gelu: ungated(gelu),
  silu: ungated(silu),
  relu: ungated(relu),
  deep_swiglu: deepGated(silu),
}

const POSITIONS = {
  rope(cfg) {
    const headDim = cfg.dim / cfg.n_heads
    const middle = headDim / 2
    const theta = Float32Array.from({length: middle},
                                    (_, i) => 1 / cfg.rope_theta ** (2 * i / headDim))
    return {
      embed: x => x,
      rotate(q, at) { // (heads * Dh,): a head's first half is paired with its second
        const out = new Float32Array(q.length)
        for (let i = 0; i < q.length; i++) {
          const place = i % headDim
          const angle = Math.fround(at * theta[place % middle])
          const other = place < middle ? -q[i + middle] : q[i - middle]
          out[i] = q[i] * Math.cos(angle) + other * Math.sin(angle)
        }
        return out
      },
    }
  },
  learned(cfg, tensors) {
    const table = tensors['position.table.weight']
    return {
      embed: (x, at) => plus(x, table.subarray(at * cfg.dim, (at + 1) * cfg.dim)),
      rotate: q => q,
    }
  },
  none: () => ({embed: x => x, rotate: q => q}),
}

const BLOCKS = { // how norms and layers follow one another around the stream x
  prenorm: part => x => {
    x = plus(x, part.attention(part.attentionNorm(x)))
    return plus(x, part.feedforward(part.feedforwardNorm(x)))
  },
  postnorm: part => x => {
    x = part.attentionNorm(plus(x, part.attention(x)))
    return part.feedforwardNorm(plus(x, part.feedforward(x)))
  },
}

// -- attention, with keys and values of the tokens before kept in a cache

function attention(cfg, tensors, name, position, cache) {
  const [wq, wk, wv, wo] = ['.wq', '.wk', '.wv', '.wo'].map(map => linear(tensors, name + map))
  const headDim = cfg.dim / cfg.n_heads
  const kvDim = cfg.n_kv_heads * headDim
  const group = cfg.n_heads / cfg.n_kv_heads // query heads that share a key/value head
  const keys = new Float32Array(cfg.max_seq_len * kvDim)
  const values = new Float32Array(cfg.max_seq_len * kvDim)
  return x => {
    const at = cache.filled // where the token stands: all before it are kept
    const q = position.rotate(wq(x), at)
    keys.set(position.rotate(wk(x), at), at * kvDim)
    values.set(wv(x), at * kvDim)
    const out = new Float32Array(cfg.dim)
    const seen = []
    for (let h = 0; h < cfg.n_heads; h++) {
      const kv = Math.floor(h / group) * headDim
      const scores = new Float32Array(at + 1)
      for (let s = 0; s <= at; s++) {
        let sum = 0
        for (let i = 0; i < headDim; i++) sum += q[h * headDim + i] * keys[s * kvDim + kv + i]
        scores[s] = sum / Math.sqrt(headDim)
      }
      const weights = softmax(scores)
      for (let s = 0; s <= at; s++) {
        for (let i = 0; i < headDim; i++) {
          out[h * headDim + i] += weights[s] * values[s * kvDim + kv + i]
        }
      }
      seen.push(weights)
    }
    cache.seen.push(seen)
    return wo(out)
  }
}

// -- the model

class Model {
  constructor(file) {
    const cfg = this.cfg = file.config
    const tensors = this.tensors = tensorsOf(file)
    const norm = choose(NORMS, cfg.norm, 'norm')
    const feedforward = choose(FEEDFORWARDS, cfg.feedforward, 'feedforward')
    const block = choose(BLOCKS, cfg.block, 'block')
    this.position = choose(POSITIONS, cfg.position, 'position')(cfg, tensors)
    this.cache = {filled: 0, seen: []}
    this.blocks = Array.from({length: cfg.n_layers}, (_, i) => block({
      attentionNorm: norm(tensors, `blocks.${i}.attention_norm`, cfg.norm_eps),
      attention: attention(cfg, tensors, `blocks.${i}.attention`, this.position, this.cache),
      feedforwardNorm: norm(tensors, `blocks.${i}.feedforward_norm`, cfg.norm_eps),
      feedforward: feedforward(tensors, `blocks.${i}.feedforward`),
    }))
    this.norm = norm(tensors, 'norm', cfg.norm_eps)
    const output = tensors['output.weight'] || tensors['embedding.weight'] // the latter: tied
    this.output = x => times(output, x, tensors['output.bias'])
    this.ids = []   // that have been read
    this.start = 0  // the first of them that the cache still knows
  }

  get seen() { return this.cache.seen } // attention weights of the last token: layer, head, token

  step(id) { // the logits (V,) of what follows one more token
    const {cfg, cache} = this
    const row = this.tensors['embedding.weight'].subarray(id * cfg.dim, (id + 1) * cfg.dim)
    cache.seen = []
    let x = this.position.embed(row, cache.filled)
    for (const block of this.blocks) x = block(x)
    cache.filled++
    return this.output(this.norm(x))
  }

  read(ids) { // the logits of what follows all of these; what has been read is not read again
    const room = this.cfg.max_seq_len
    let kept = 0
    while (kept < ids.length - 1 && this.ids[kept] === ids[kept]) kept++
    if (kept <= this.start || ids.length - this.start > room) { // begin anew
      this.start = ids.length < room ? 0 : ids.length - Math.max(1, Math.floor(room / 2))
      kept = this.start
    }
    this.cache.filled = kept - this.start
    let logits
    for (const id of ids.slice(kept)) logits = this.step(id)
    this.ids = ids.slice()
    return logits
  }
}

// -- tokenizers

function utf8(text) { // its bytes
  return Array.from(unescape(encodeURIComponent(text)), char => char.charCodeAt(0))
}

function textOf(bytes, oneEach = false) { // � for what is no UTF-8: for each byte, or each beginning
  let text = ''
  for (let i = 0; i < bytes.length;) {
    const n = lengthOf(bytes, i)
    const whole = n === wanted(bytes[i])
    const code = bytes.slice(i + 1, i + n)
                      .reduce((sum, byte) => sum << 6 | byte & 63, bytes[i] & 127 >> (n > 1 ? n : 0))
    text += whole ? String.fromCodePoint(code) : '�'
    i += whole || !oneEach ? n : 1
  }
  return text
}

function wanted(first) { // bytes of a character that begins with this one; 0: none does
  if (first < 0x80) return 1
  if (first < 0xC2 || first > 0xF4) return 0
  return first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4
}

function lengthOf(bytes, i) { // of the character at i, as far as it is there; at least 1
  const least = {0xE0: 0xA0, 0xF0: 0x90}[bytes[i]] || 0x80 // else a shorter form would do
  const most = {0xED: 0x9F, 0xF4: 0x8F}[bytes[i]] || 0xBF  // half a character; past the last one
  let n = 1
  while (n < wanted(bytes[i])) {
    const byte = bytes[i + n]
    const fits = n === 1 ? byte >= least && byte <= most : byte >= 0x80 && byte <= 0xBF
    if (!fits) break
    n++
  }
  return n
}

class SentencePiece { // pieces: text, the value of a byte, or null for a special one
  constructor({pieces, scores, bos_id, eos_id, space_first}) {
    Object.assign(this, {pieces, scores, bos_id, eos_id, space_first})
    this.ids = new Map(pieces.map((piece, i) => [piece, i]))
    this.ids.delete(null)
  }

  encode(text) {
    const letters = Array.from(this.space_first && text ? ' ' + text : text)
    return this.split(letters).flatMap(piece => this.spell(piece))
  }

  spell(piece) { // its id, or those of its bytes
    return this.ids.has(piece) ? [this.ids.get(piece)] : utf8(piece).map(byte => this.ids.get(byte))
  }

  bytes(id) {
    const piece = this.pieces[id]
    return typeof piece === 'number' ? [piece] : utf8(piece || '')
  }

  decode(ids) { // bytes are joined with their neighbours, and with nothing else
    let text = ''
    let bytes = []
    for (const id of [...ids, -1]) {
      const piece = this.pieces[id]
      if (typeof piece === 'number') { bytes.push(piece); continue }
      text += textOf(bytes, true) + (piece || '')
      bytes = []
    }
    return this.space_first ? text.replace(/^ /, '') : text
  }
}

class BPE extends SentencePiece {
  split(symbols) { // join the pair whose piece was learned first, until none is a piece
    const scoreOf = i => this.scores[this.ids.get(symbols[i] + symbols[i + 1])] ?? -Infinity
    const scores = symbols.map((_, i) => i + 1 < symbols.length ? scoreOf(i) : -Infinity)
    while (true) {
      let best = 0
      for (let i = 1; i < scores.length; i++) if (scores[i] > scores[best]) best = i
      if (!scores.length || scores[best] === -Infinity) return symbols
      symbols.splice(best, 2, symbols[best] + symbols[best + 1])
      scores.splice(best, 1)
      scores[symbols.length - 1] = -Infinity
      for (const i of [best - 1, best]) if (i >= 0 && i + 1 < symbols.length) scores[i] = scoreOf(i)
    }
  }
}

class Unigram extends SentencePiece {
  constructor(stored) {
    super(stored)
    const normal = this.pieces.map((_, i) => i).filter(i => typeof this.pieces[i] === 'string')
    this.longest = Math.max(...normal.map(i => Array.from(this.pieces[i]).length))
    this.unknown = Math.fround(Math.min(...normal.map(i => this.scores[i])) - 10)
  }

  split(letters) { // the most probable pieces (Viterbi), in single precision as SentencePiece has it
    const best = [{score: 0}]
    for (let from = 0; from < letters.length; from++) {
      const offer = (n, added) => {
        const score = Math.fround(added + best[from].score)
        const to = best[from + n]
        if (!to || score > to.score) best[from + n] = {score, from}
      }
      for (let n = 1; n <= this.longest && from + n <= letters.length; n++) {
        const id = this.ids.get(letters.slice(from, from + n).join(''))
        if (id !== undefined) offer(n, this.scores[id])
        else if (n === 1) offer(1, this.unknown)
      }
    }
    const pieces = []
    for (let to = letters.length; to > 0; to = best[to].from) {
      pieces.unshift(letters.slice(best[to].from, to).join(''))
    }
    return pieces
  }
}

// Words as GPT-2 cuts them. Python's white space is not quite JavaScript's, so it is spelled out.
const WHITE = '\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000'
const WORD = new RegExp(`'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^${WHITE}\\p{L}\\p{N}]+|` +
                        `[${WHITE}]+(?![^${WHITE}])|[${WHITE}]+`, 'gu')

const BETWEEN = '\u0100' // two pieces of a pair: it stands for no byte

class ByteBPE { // pieces and merges are texts in which a letter stands for a byte: Latin-1
  constructor({pieces, merges, special, hidden, bos_id, eos_id}) {
    Object.assign(this, {pieces, hidden, bos_id, eos_id})
    this.ids = new Map(pieces.map((piece, i) => [piece, i]))
    this.ranks = new Map(merges.map((pair, rank) => [pair.join(BETWEEN), rank]))
    const names = [...special].sort((a, b) => b.length - a.length) // found in a text, longest first
    const literal = name => name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
    this.found = names.length ? new RegExp(`(${names.map(literal).join('|')})`) : null
  }

  encode(text) {
    const parts = this.found ? text.split(this.found) : [text]
    return parts.flatMap((part, n) => {
      if (n % 2) return [this.ids.get(unescape(encodeURIComponent(part)))]
      return (part.match(WORD) || []).flatMap(word => this.split(word))
    })
  }

  split(word) { // the ids of its pieces: of all merges that are possible the first learned is next
    const symbols = Array.from(unescape(encodeURIComponent(word)))
    while (true) {
      const ranks = symbols.map((symbol, i) => this.ranks.get(symbol + BETWEEN + symbols[i + 1]))
      const first = ranks.reduce((a, b) => Math.min(a, b ?? Infinity), Infinity)
      if (first === Infinity) return symbols.map(symbol => this.ids.get(symbol))
      const i = ranks.indexOf(first)
      symbols.splice(i, 2, symbols[i] + symbols[i + 1])
    }
  }

  bytes(id) {
    return this.hidden.includes(id) ? [] : Array.from(this.pieces[id], char => char.charCodeAt(0))
  }

  decode(ids) { return textOf(ids.flatMap(id => this.bytes(id))) }
}

class Cut { // some of another tokenizer's pieces; the others are spelled in bytes
  constructor({of, kept, spelled, bos_id, eos_id}) {
    Object.assign(this, {of: tokenizer(of), kept, bos_id, eos_id})
    this.ways = new Map(kept.map((old, id) => [old, [id]]))
    this.spelled = spelled // the id of each byte
  }

  encode(text) {
    const spell = old => this.of.bytes(old).map(byte => this.spelled[byte])
    return this.of.encode(text).flatMap(old => this.ways.get(old) || spell(old))
  }

  bytes(id) { return this.of.bytes(this.kept[id]) }
  decode(ids) { return this.of.decode(ids.map(id => this.kept[id])) }
}

const TOKENIZERS = {bpe: BPE, unigram: Unigram, byte_bpe: ByteBPE, cut: Cut}
const tokenizer = stored => new (choose(TOKENIZERS, stored.kind, 'tokenizer'))(stored)

// -- choosing a token

function ranked(logits, temperature) { // all tokens, the most probable first
  const p = softmax(Float64Array.from(logits), temperature || 1)
  const ids = Array.from(p.keys()).sort((a, b) => p[b] - p[a])
  let before = 0 // probability of all that are more probable
  return ids.map((id, rank) => {
    const one = {id, rank, p: p[id], before}
    before += p[id]
    return one
  })
}

function removedBy(one, first, how) { // the name of what takes a token out; '': it stays
  if (one.rank === 0) return ''
  if (!how.temperature) return 'temperature 0'
  if (how.top_k && one.rank >= how.top_k) return 'top-k'
  if (how.top_p < 1 && one.before >= how.top_p) return 'top-p'
  return one.p < how.min_p * first.p ? 'min-p' : ''
}

function uniform(seed, place) { // a number in [0, 1) that belongs to a seed and a place in the text
  let h = Math.imul(seed, 0x9E3779B1) ^ Math.imul(place + 1, 0x85EBCA77)
  for (const factor of [0x21F0AAAD, 0x735A2D97, 0x2C1B3C6D]) {
    h = Math.imul(h ^ h >>> 16, factor)
  }
  return ((h ^ h >>> 15) >>> 0) / 2 ** 32
}

function draw(tokens, how, random) { // one of the ranked tokens that stay
  const first = tokens[0]
  const staying = tokens.filter(one => !removedBy(one, first, how))
  let left = random * staying.reduce((sum, one) => sum + one.p, 0)
  return staying.find(one => (left -= one.p) < 0) || first
}

// -- a story

const start = (tok, opening) => [tok.bos_id, ...tok.encode(opening)]

function* tell(model, tok, opening, how, seed) { // ids one after the other, up to the story's end
  const ids = start(tok, opening)
  while (true) {
    const tokens = ranked(model.read(ids), how.temperature)
    const {id} = draw(tokens, how, uniform(seed, ids.length))
    if (id === tok.eos_id || id === tok.bos_id) return
    ids.push(id)
    yield id
  }
}

function textAfter(tok, last, ids) { // of ids that follow a token: alone, some would lose a space
  if (last === tok.bos_id) return tok.decode(ids)
  return tok.decode([last, ...ids]).slice(tok.decode([last]).length)
}

return {files, add, Model, tokenizer, ranked, removedBy, uniform, draw, start, tell, textAfter}
})()
