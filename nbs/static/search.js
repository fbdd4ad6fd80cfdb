// Search without a server: the index is a script, which a page from a file may load as well, fetched when it is first
// needed. Every word of the question has to be on the place that is found; what stands in headings comes first.
(() => {
  const top = document.currentScript.dataset.top
  const box = document.querySelector('.site-search')
  const input = box.querySelector('input')
  const list = box.querySelector('[role=status]')
  let places

  const plain = text => ' ' + text.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, ' ').trim() + ' '
  const escaped = text => text.replace(/[&<>"]/g, c => `&#${c.charCodeAt(0)};`)

  function load() {
    if (places) return places
    places = new Promise((done, failed) => {
      const script = document.createElement('script')
      script.src = top + 'search-index.js'
      script.onload = () => done(window.searchIndex.map(([href, title, section, text]) => (
        { href, title, section, text, heading: plain(title + ' ' + section), all: plain(`${title} ${section} ${text}`) })))
      script.onerror = failed
      document.head.append(script)
    })
    return places
  }

  // How well a place answers: not at all when a word is missing, best when a heading is the question.
  function score(place, question, words) {
    if (!words.every(word => place.all.includes(word))) return 0
    const whole = ` ${question} `
    return 1 + 100 * (plain(place.section || place.title) === whole) + 30 * place.heading.includes(whole)
      + 10 * place.all.includes(whole) + 5 * words.filter(word => place.heading.includes(word)).length
      + Math.min(4, place.all.split(words[0]).length - 1) - 2 * (place.href.startsWith('CHANGELOG'))
  }

  async function find(text) {
    const question = plain(text).trim()
    const words = question.split(' ').map((word, i) => (word.length > 2 ? word : ` ${word}`))
    const scored = (await load()).map(place => [score(place, question, words), place])
    return scored.filter(([points]) => points > 0).sort((a, b) => b[0] - a[0]).slice(0, 20).map(([, place]) => place)
  }

  // A piece of the text around the first of the words.
  function excerpt(text, question) {
    const at = text.toLowerCase().search(question.toLowerCase().trim().split(/[\s_-]+/)[0].replace(/\W/g, '.'))
    return (at > 60 ? '…' : '') + text.slice(Math.max(0, at - 60), Math.max(0, at - 60) + 200)
  }

  async function show() {
    const question = input.value
    if (question.trim().length < 2) return hide()
    const found = await find(question)
    if (question !== input.value) return  // another letter was typed meanwhile
    list.innerHTML = found.map(place => `<a class="search-result" href="${top}${place.href}">
      <div class="search-result-title">${escaped(place.title)}</div>
      <div class="search-result-section">${escaped(place.section)}</div>
      <div class="search-result-text">${escaped(excerpt(place.text, question))}</div></a>`).join('')
      || `<div class="search-none">Nothing has all of these words.</div>`
    list.classList.add('show')
  }

  function hide() { list.classList.remove('show') }

  function move(event, by) {
    const links = [...list.querySelectorAll('a')]
    if (!links.length) return
    event.preventDefault()
    const next = links.indexOf(document.activeElement) + by
    if (next < 0) input.focus()
    else links[Math.min(next, links.length - 1)].focus()
  }

  input.addEventListener('input', show)
  input.addEventListener('focus', () => { load().then(show) })
  box.addEventListener('keydown', event => {
    if (event.key === 'ArrowDown') move(event, 1)
    if (event.key === 'ArrowUp') move(event, -1)
    if (event.key === 'Escape') { hide(); input.blur() }
    if (event.key === 'Enter' && document.activeElement === input) list.querySelector('a')?.click()
  })
  document.addEventListener('click', event => { if (!box.contains(event.target)) hide() })
  document.addEventListener('keydown', event => {
    const typing = document.activeElement.matches('input, textarea, select, [contenteditable]')
    if ((event.key === '/' && !typing) || (event.key === 'k' && (event.metaKey || event.ctrlKey))) {
      event.preventDefault()
      input.focus()
    }
  })
})()
