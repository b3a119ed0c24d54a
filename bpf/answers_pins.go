package bpf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
)

// PinnedAnswers are the answers of programs as their pins show them, with an agent or without. It must be closed.
type PinnedAnswers struct {
	answers Answers // without what takes an agent
	close   []io.Closer
}

// OpenAnswers opens the answers below a pin directory. ErrNoMaps: there are none.
func OpenAnswers(pinDir string) (_ *PinnedAnswers, err error) {
	p := &PinnedAnswers{}
	defer func() {
		if err != nil {
			err = errors.Join(readError(pinDir, err), p.Close())
		}
	}()
	var zone *ebpf.Map
	for name, m := range map[string]**ebpf.Map{
		sockMapDnsAnswers: &p.answers.small, sockMapDnsLarge: &p.answers.large, sockMapDnsCounts: &p.answers.counts,
		sockMapPodAddresses: &p.answers.pods, sockMapDnsZone: &zone,
	} {
		if *m, err = ebpf.LoadPinnedMap(filepath.Join(pinDir, layoutVersion, name), nil); err != nil {
			return nil, err
		}
		p.close = append(p.close, *m)
	}
	p.answers.zone = &sockDnsZone{}
	return p, zone.Lookup(uint32(0), p.answers.zone)
}

// Close closes the maps.
func (p *PinnedAnswers) Close() error {
	var errs []error
	for _, c := range p.close {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// All is that of Answers.
func (p *PinnedAnswers) All() iter.Seq2[Answer, error] { return p.answers.All() }

// Delete is that of Answers.
func (p *PinnedAnswers) Delete(k AnswerKey) error { return p.answers.Delete(k) }

// Counts is that of Answers.
func (p *PinnedAnswers) Counts() (map[netip.Addr]DNSCounts, error) { return p.answers.Counts() }

// Silent is how long ago the agent gave its last sign of life.
func (p *PinnedAnswers) Silent() (time.Duration, error) {
	now, err := Clock()
	return now - time.Duration(p.answers.zone.Alive), err
}

// Scope is that of the pod with an address. ok is false if there is none.
func (p *PinnedAnswers) Scope(pod netip.Addr) (scope uint32, ok bool, err error) {
	var v sockPodAddress
	if err = p.answers.pods.Lookup(sockAddress{Addr: words(pod)}, &v); errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, false, nil
	}
	return v.Scope, err == nil, err
}

// A DNSVerdict is what programs do about a question that is as plain as most, and why.
type DNSVerdict struct {
	Outcome DNSOutcome
	Reason  DNSReason
	// Answer is the entry that decides, of the name asked for or of the Service that it is below. The zero value: none does.
	Answer Answer
}

// A DNSReason says why.
type DNSReason uint8

// Why a question is answered, or not.
const (
	DNSEntered      DNSReason = iota // there is an answer to it
	DNSPast                          // there is one, but its time is over
	DNSNoSuchType                    // the name is known, and has no such record
	DNSNoSuchName                    // all names of the zone are known, and this is none
	DNSAsksType                      // the name is known, and the agent knows more about it
	DNSAsksBelow                     // the Service is known, and the agent knows more of the names below it
	DNSMaySearch                     // the pod may be searching, and the agent knows where to go on
	DNSNotInZone                     // not a name of the zone, which nobody has asked for often enough
	DNSIncomplete                    // not all names of the zone are known
	DNSNobodyThere                   // the agent has been silent for too long
	DNSOfPodsOrPort                  // names of pods and ports are the agent's
	DNSMeta                          // questions of such a type are never answered by programs
)

// Decide says what programs do about a question of a pod with that scope, by the same steps as look_up of bpf/c/dns_find.h.
func (p *PinnedAnswers) Decide(name string, qtype uint16, scope uint32) (DNSVerdict, error) {
	silent, err := p.Silent()
	switch {
	case err != nil:
		return DNSVerdict{}, err
	case qtype == 0 || qtype == typeOPT || qtype >= firstMetaType:
		return DNSVerdict{Outcome: DNSPunt, Reason: DNSMeta}, nil
	case silent > AnswersGrace:
		return DNSVerdict{Outcome: DNSPunt, Reason: DNSNobodyThere}, nil
	}
	for _, s := range []uint32{scope, 0} {
		a, ok, err := p.answers.Lookup(AnswerKey{Name: name, Type: qtype, Scope: s})
		if err != nil {
			return DNSVerdict{}, err
		}
		if ok {
			return entered(a)
		}
	}
	wire, err := packName(name)
	if err != nil {
		return DNSVerdict{}, fmt.Errorf("explain %s: %w", name, err)
	}
	return p.unentered(wire, qtype, scope != 0 && (qtype == typeA || qtype == typeAAAA), silent)
}

const typeSRV = 33

func entered(a Answer) (DNSVerdict, error) {
	m, err := parseResponse(a.Response)
	switch {
	case err != nil:
		return DNSVerdict{}, err
	case a.Expires < 0:
		return DNSVerdict{DNSExpired, DNSPast, a}, nil
	case m.flags&maskRcode != 0 || m.count[0] == 0:
		return DNSVerdict{DNSNegative, DNSEntered, a}, nil
	}
	return DNSVerdict{DNSHit, DNSEntered, a}, nil
}

// unentered is about a question that has no answer of its own.
func (p *PinnedAnswers) unentered(name []byte, qtype uint16, searching bool, silent time.Duration) (DNSVerdict, error) {
	v := p.answers.zone.View[p.answers.zone.Current&1]
	above := len(name) - int(v.DomainBytes)
	if v.DomainBytes == 0 || above < 0 || !beginsLabel(name, above) || hashName(&p.answers.zone.Secret, name[above:]) != v.Hash {
		return DNSVerdict{Outcome: DNSMiss, Reason: DNSNotInZone}, nil
	}
	known, ok, err := p.answers.Lookup(AnswerKey{Name: nameText(name)})
	ask := NameAskAll | map[uint16]NameFlags{typeA: NameAskA, typeAAAA: NameAskAAAA, typeSRV: NameAskSRV}[qtype]
	miss := func(why DNSReason) (DNSVerdict, error) { return DNSVerdict{DNSMiss, why, known}, err }
	switch {
	case err != nil:
		return DNSVerdict{}, err
	case ok && known.Names&ask != 0:
		return miss(DNSAsksType)
	case ok && searching && known.Names&NameAddresses == 0, !ok && searching:
		return miss(DNSMaySearch)
	case ok:
		return DNSVerdict{DNSNegative, DNSNoSuchType, known}, nil
	case v.Complete == 0:
		return miss(DNSIncomplete)
	case silent > AbsenceGrace:
		return miss(DNSNobodyThere)
	case above == 0:
		return miss(DNSIncomplete)
	}
	return p.absent(name, above)
}

// absent is about a name of the zone that is not known.
func (p *PinnedAnswers) absent(name []byte, above int) (DNSVerdict, error) {
	var own []int // where labels begin that are not the domain's
	for at := 0; at < above; at += 1 + int(name[at]) {
		if own = append(own, at); name[at+1] == '_' {
			return DNSVerdict{Outcome: DNSMiss, Reason: DNSOfPodsOrPort}, nil
		}
	}
	last := name[own[len(own)-1]:above]
	if bytes.Equal(last, []byte("\x03pod")) {
		return DNSVerdict{Outcome: DNSMiss, Reason: DNSOfPodsOrPort}, nil
	}
	if n := len(own); n > 3 && bytes.Equal(last, []byte("\x03svc")) {
		service, ok, err := p.answers.Lookup(AnswerKey{Name: nameText(name[own[n-3]:])})
		if err != nil {
			return DNSVerdict{}, err
		}
		if ok && service.Names&(NameAskAll|NameAskBelow) != 0 {
			return DNSVerdict{DNSMiss, DNSAsksBelow, service}, nil
		}
	}
	return DNSVerdict{Outcome: DNSNegative, Reason: DNSNoSuchName}, nil
}
