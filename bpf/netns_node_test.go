//go:build node

package bpf

import "testing"

// TestCookieByProgram holds what a program says of a network namespace to what the kernel says.
func TestCookieByProgram(t *testing.T) {
	seen := map[uint64]bool{}
	for _, n := range []*netns{newNetns(t), newNetns(t)} {
		n.do(t, func() error {
			want, err := NetNSCookie()
			if err != nil {
				return err
			}
			for range 2 {
				got, err := cookieByProgram()
				if err != nil {
					return err
				}
				if got != want || got == 0 {
					t.Errorf("the program says %d, the kernel %d", got, want)
				}
			}
			seen[want] = true
			return nil
		})
	}
	if len(seen) != 2 {
		t.Errorf("two namespaces have %d cookies", len(seen))
	}
}
