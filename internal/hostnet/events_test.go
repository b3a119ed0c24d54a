package hostnet

import (
	"testing"

	"golang.org/x/sys/unix"
)

// deleted is an NFT_MSG_DELTABLE of a table, after the netlink header.
func deleted(family byte, table string) []byte {
	return append([]byte{family, 0, 0, 1, byte(4 + len(table)), 0, unix.NFTA_TABLE_NAME, 0}, table...)
}

func TestTableOf(t *testing.T) {
	for want, message := range map[string][]byte{
		"nearpath":   deleted(unix.NFPROTO_INET, "nearpath\x00"),
		"kube-proxy": deleted(unix.NFPROTO_INET, "kube-proxy\x00\x00"),
		"":           deleted(unix.NFPROTO_IPV4, "nearpath\x00"),
	} {
		if got := tableOf(message); got != want {
			t.Errorf("table %q, want %q", got, want)
		}
	}
}

func FuzzTableOf(f *testing.F) {
	f.Add(deleted(unix.NFPROTO_INET, "nearpath\x00"))
	f.Add(deleted(unix.NFPROTO_INET, "unended"))
	f.Add([]byte{unix.NFPROTO_INET, 0, 0, 0, 2, 0})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, message []byte) {
		if len(tableOf(message)) > len(message) {
			t.Error("a name longer than its message")
		}
	})
}
