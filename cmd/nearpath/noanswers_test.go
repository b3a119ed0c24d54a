package main

import (
	"net/netip"
	"testing"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/nodelocaldns/answerstest"
)

// A kernelMap holds answers, and says in which order things were done to it.
type kernelMap struct {
	answerstest.Map
	did []string
}

func (m *kernelMap) PutName(string, bpf.NameFlags) error { return nil }
func (m *kernelMap) DeleteName(string) error             { return nil }
func (m *kernelMap) SetZone(bpf.AnswerZone) error        { return nil }
func (m *kernelMap) Beat() error                         { return nil }

func (m *kernelMap) SetServers([]netip.Addr) error {
	m.did = append(m.did, "servers")
	return nil
}

func (m *kernelMap) Delete(k bpf.AnswerKey) error {
	m.did = append(m.did, "delete")
	return m.Map.Delete(k)
}

// Without dns.kernel nothing is written to the kernel, and nothing of an agent that did stays; with it, all does.
func TestWithoutKernelAnswers(t *testing.T) {
	key := bpf.AnswerKey{Name: "web.shop.svc.cluster.local.", Type: 1}
	for _, kernel := range []bool{true, false} {
		m := new(kernelMap)
		if err := m.Put(key, nil, bpf.AnswerLife{}); err != nil {
			t.Fatal(err)
		}
		answers, err := answersFor(kernel, m)
		if err != nil {
			t.Fatal(err)
		}
		if held := len(m.Keys()); (held == 1) != kernel {
			t.Errorf("kernel %t: %d answers of the agent before", kernel, held)
		}
		if err := answers.Put(key, nil, bpf.AnswerLife{}); err != nil {
			t.Fatal(err)
		}
		if held := len(m.Keys()); (held == 1) != kernel {
			t.Errorf("kernel %t: %d answers are written", kernel, held)
		}
		if !kernel && (len(m.did) != 2 || m.did[0] != "servers") {
			t.Errorf("done: %v; who asks is told that names are missing unless the kernel stops to answer first", m.did)
		}
	}
}
