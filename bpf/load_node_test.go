//go:build node

package bpf

import (
	"testing"

	"github.com/cilium/ebpf"
)

// verified is how many instructions the verifier may walk in all programs together. It is walked at each start of an agent,
// at about a million a second; without global functions it would be millions.
const verified = 500_000

func TestVerifierHasLittleToDo(t *testing.T) {
	d, err := Load(node(t))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var all uint32
	for name, p := range map[string]*ebpf.Program{
		"connect4": d.objs.Connect4, "connect6": d.objs.Connect6, "sendmsg4": d.objs.Sendmsg4, "sendmsg6": d.objs.Sendmsg6,
		"from_outside": d.packet.FromOutside, "to_outside": d.packet.ToOutside, "from_vpc": d.packet.FromVpc, "from_pod": d.packet.FromPod,
		"to_pod": d.packet.ToPod, "to_vpc": d.packet.ToVpc, "leave_pod": d.packet.LeavePod,
	} {
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		n, ok := info.VerifiedInstructions()
		if !ok {
			t.Fatal("the kernel does not tell what the verifier did (since 5.16)")
		}
		t.Logf("%s: %d instructions", name, n)
		all += n
	}
	if all > verified {
		t.Errorf("the verifier walked %d instructions, want %d at most", all, verified)
	}
}
