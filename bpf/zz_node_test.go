//go:build node

package bpf

import "testing"

func TestZZ(t *testing.T) {
	d := start(t, node(t))
	for _, h := range d.hooks() {
		i, _ := h.program.Info()
		n, _ := i.VerifiedInstructions()
		s, _ := i.TranslatedSize()
		t.Log(h.name, n, s/8)
	}
}
