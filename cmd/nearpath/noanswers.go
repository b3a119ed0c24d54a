package main

import (
	"iter"
	"net/netip"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/nodelocaldns"
)

// answerMap is where answers for the kernel are put.
type answerMap interface {
	nodelocaldns.Answers
	nodelocaldns.ExternalAnswers
	SetServers([]netip.Addr) error
}

// answersFor is the kernel's map, or where the kernel is not to answer what looks like one. Nothing of an agent before this one
// stays in the real one then.
func answersFor(kernel bool, held answerMap) (answerMap, error) {
	if kernel {
		return held, nil
	}
	if err := held.SetServers(nil); err != nil { // first, as a name without an entry is denied
		return nil, err
	}
	var keys []bpf.AnswerKey
	for answer, err := range held.All() {
		if err != nil {
			return nil, err
		}
		keys = append(keys, answer.AnswerKey)
	}
	for _, key := range keys {
		if err := held.Delete(key); err != nil {
			return nil, err
		}
	}
	return noAnswers{}, nil
}

// noAnswers takes everything and holds nothing.
type noAnswers struct{}

func (noAnswers) Put(bpf.AnswerKey, []byte, bpf.AnswerLife) error       { return nil }
func (noAnswers) PutName(string, bpf.NameFlags) error                   { return nil }
func (noAnswers) Delete(bpf.AnswerKey) error                            { return nil }
func (noAnswers) DeleteName(string) error                               { return nil }
func (noAnswers) Lookup(bpf.AnswerKey) (a bpf.Answer, ok bool, _ error) { return a, false, nil }
func (noAnswers) All() iter.Seq2[bpf.Answer, error]                     { return func(func(bpf.Answer, error) bool) {} }
func (noAnswers) SetZone(bpf.AnswerZone) error                          { return nil }
func (noAnswers) Beat() error                                           { return nil }
func (noAnswers) SetServers([]netip.Addr) error                         { return nil }
