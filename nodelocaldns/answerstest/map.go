// Package answerstest has an answer map like the kernel's, for tests of what is published into it.
package answerstest

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/bpf"
)

// A Map holds answers and gives them as the kernel does. It is safe for concurrent use; the zero value holds as much as
// it is given.
type Map struct {
	Room    int // how many answers; 0 is no limit
	MaxSize int // bytes of an answer; 0 is no limit

	mu      sync.Mutex // guards what follows
	answers map[bpf.AnswerKey]*answer
	broken  error
}

type answer struct {
	msg  []byte
	life bpf.AnswerLife
	born time.Time
	hits uint32
}

// Break makes every write fail until it is called with nil.
func (m *Map) Break(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.broken = err
}

// Put is as of bpf.Answers.
func (m *Map) Put(k bpf.AnswerKey, response []byte, life bpf.AnswerLife) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken != nil {
		return m.broken
	}
	if m.MaxSize > 0 && len(response) > m.MaxSize {
		return fmt.Errorf("%w: %d bytes", bpf.ErrTooLarge, len(response))
	}
	if _, ok := m.answers[k]; !ok && m.Room > 0 && len(m.answers) >= m.Room {
		return bpf.ErrFull
	}
	if m.answers == nil {
		m.answers = map[bpf.AnswerKey]*answer{}
	}
	m.answers[k] = &answer{msg: slices.Clone(response), life: life, born: time.Now()}
	return nil
}

// Delete is as of bpf.Answers.
func (m *Map) Delete(k bpf.AnswerKey) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken == nil {
		delete(m.answers, k)
	}
	return m.broken
}

// Lookup is as of bpf.Answers.
func (m *Map) Lookup(k bpf.AnswerKey) (bpf.Answer, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, ok := m.answers[k]
	if !ok {
		return bpf.Answer{}, false, nil
	}
	return a.of(k), true, nil
}

// All is as of bpf.Answers.
func (m *Map) All() iter.Seq2[bpf.Answer, error] {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]bpf.Answer, 0, len(m.answers))
	for k, a := range m.answers {
		all = append(all, a.of(k))
	}
	return func(yield func(bpf.Answer, error) bool) {
		for _, a := range all {
			if !yield(a, nil) {
				return
			}
		}
	}
}

// Keys returns what is held, expired or not.
func (m *Map) Keys() []bpf.AnswerKey {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.answers))
}

func (a *answer) of(k bpf.AnswerKey) bpf.Answer {
	age := time.Since(a.born)
	life := a.life
	if life.Expires != 0 {
		life.Expires -= age
	}
	return bpf.Answer{AnswerKey: k, Response: a.msg, AnswerLife: life, Age: age, Hits: a.hits}
}

// Ask gives what a pod of a scope gets from the kernel, or nil when its question goes on to userspace.
func (m *Map) Ask(name string, qtype uint16, scope uint32) *dns.Msg {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, ok := m.answers[bpf.AnswerKey{Name: name, Type: qtype, Scope: scope}]
	if !ok {
		a, ok = m.answers[bpf.AnswerKey{Name: name, Type: qtype}]
	}
	if !ok {
		return nil
	}
	age := time.Since(a.born)
	if a.life.Expires != 0 && age >= a.life.Expires {
		return nil
	}
	msg := new(dns.Msg)
	if msg.Unpack(a.msg) != nil {
		return nil
	}
	a.hits++
	if a.life.Aged {
		for _, section := range [][]dns.RR{msg.Answer, msg.Ns, msg.Extra} {
			for _, rr := range section {
				h := rr.Header()
				h.Ttl -= min(uint32(age/time.Second), h.Ttl)
				h.Ttl = max(h.Ttl, 1)
			}
		}
	}
	return msg
}
