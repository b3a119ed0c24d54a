package nodelocaldns

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"iter"
	"strings"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/bpf"
)

// Answers is what the kernel answers from; *bpf.Answers is one.
type Answers interface {
	Put(k bpf.AnswerKey, response []byte, life bpf.AnswerLife) error
	Delete(k bpf.AnswerKey) error
	PutName(name string, flags bpf.NameFlags) error
	DeleteName(name string) error
	All() iter.Seq2[bpf.Answer, error]
	SetZone(z bpf.AnswerZone) error
	Beat() error
}

// An Op is one change to what the kernel holds. It prints itself.
type Op interface {
	fmt.Stringer
	apply(to Answers) error
	of() entry
}

// Put holds an answer.
type Put struct {
	entry
	Response []byte // packed
}

// PutName says that a name exists, and who answers what of it is not held.
type PutName struct {
	entry
	Flags bpf.NameFlags
}

// Delete forgets an answer, or that a name exists.
type Delete struct{ entry }

func (q entry) of() entry { return q }

func (o Put) apply(to Answers) error { return to.Put(o.key(), o.Response, bpf.AnswerLife{}) }

func (o PutName) apply(to Answers) error { return to.PutName(o.name, o.Flags) }

func (o Delete) apply(to Answers) error {
	if o.qtype == dns.TypeNone {
		return to.DeleteName(o.name)
	}
	return to.Delete(o.key())
}

func (o Put) String() string {
	return fmt.Sprintf("hold %s %s (%d bytes)", o.name, dns.Type(o.qtype), len(o.Response))
}

func (o PutName) String() string { return "hold name " + o.name + flagsText(o.Flags) }

func (o Delete) String() string {
	if o.qtype == dns.TypeNone {
		return "forget name " + o.name
	}
	return fmt.Sprintf("forget %s %s", o.name, dns.Type(o.qtype))
}

var flagNames = [...]struct {
	flag bpf.NameFlags
	name string
}{
	{bpf.NameAddresses, "has addresses"}, {bpf.NameAskA, "ask A"}, {bpf.NameAskAAAA, "ask AAAA"}, {bpf.NameAskSRV, "ask SRV"},
	{bpf.NameAskAll, "ask all"}, {bpf.NameAskBelow, "ask below"},
}

func flagsText(flags bpf.NameFlags) string {
	var texts []string
	for _, f := range flagNames {
		if flags&f.flag != 0 {
			texts = append(texts, f.name)
		}
	}
	if len(texts) == 0 {
		return ""
	}
	return " (" + strings.Join(texts, ", ") + ")"
}

func (h held) put() Op {
	if h.qtype == dns.TypeNone {
		return PutName{h.entry, h.flags}
	}
	return Put{h.entry, h.response}
}

func (h held) equal(o held) bool { return h.flags == o.flags && bytes.Equal(h.response, o.response) }

// difference is what makes one owner's have its want. What comes is written before what goes is taken away, and of that names
// before their types: at no moment is a type of a name denied that was there before and is there after.
func difference(have, want []held) []Op {
	if len(have) == 0 && len(want) == 0 {
		return nil
	}
	before := make(map[entry]held, len(have))
	for _, h := range have {
		before[h.entry] = h
	}
	var ops, last []Op
	for _, w := range want {
		if h, ok := before[w.entry]; !ok || !h.equal(w) {
			ops = append(ops, w.put())
		}
		delete(before, w.entry)
	}
	for _, h := range have {
		if _, gone := before[h.entry]; !gone {
			continue
		}
		if h.qtype == dns.TypeNone {
			ops = append(ops, Delete{h.entry})
		} else {
			last = append(last, Delete{h.entry})
		}
	}
	return append(ops, last...)
}

// A sum stands for what is held: the kernel has the bytes themselves.
type sum uint64

func (p *planner) sum(h held) sum {
	var m maphash.Hash
	m.SetSeed(p.seed)
	maphash.WriteComparable(&m, h.flags)
	_, _ = m.Write(h.response)
	return sum(m.Sum64())
}
