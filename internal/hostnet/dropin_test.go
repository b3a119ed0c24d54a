package hostnet

import (
	"bufio"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDropIns(t *testing.T) {
	const a, b = "00:16:3e:00:00:02", "00:16:3e:00:00:03"
	if got := DropIns([]string{a}, Managers{}); len(got) != 0 {
		t.Errorf("without managers: %v", got)
	}
	want := map[string]string{
		"run/systemd/networkd.conf.d/nearpath.conf":            "# Written by nearpath.\n[Network]\nManageForeignRoutingPolicyRules=no\nManageForeignRoutes=no\n",
		"run/systemd/network/05-nearpath-00163e000002.network": "# Written by nearpath.\n[Match]\nMACAddress=00:16:3e:00:00:02\n\n[Link]\nUnmanaged=yes\n",
		"run/systemd/network/05-nearpath-00163e000002.link":    "# Written by nearpath.\n[Match]\nMACAddress=00:16:3e:00:00:02\n\n[Link]\nNamePolicy=keep\nMACAddressPolicy=none\n",
		"run/systemd/network/05-nearpath-00163e000003.network": "# Written by nearpath.\n[Match]\nMACAddress=00:16:3e:00:00:03\n\n[Link]\nUnmanaged=yes\n",
		"run/systemd/network/05-nearpath-00163e000003.link":    "# Written by nearpath.\n[Match]\nMACAddress=00:16:3e:00:00:03\n\n[Link]\nNamePolicy=keep\nMACAddressPolicy=none\n",
		"run/NetworkManager/conf.d/nearpath.conf":              "# Written by nearpath.\n[keyfile]\nunmanaged-devices+=mac:00:16:3e:00:00:02;mac:00:16:3e:00:00:03\n\n[device-nearpath]\nmatch-device=mac:00:16:3e:00:00:02;mac:00:16:3e:00:00:03\nmanaged=0\n",
	}
	if diff := cmp.Diff(want, DropIns([]string{b, a, b}, Managers{true, true})); diff != "" {
		t.Error(diff)
	}
	if got := DropIns(nil, Managers{true, true}); len(got) != 1 || got[networkdConf] == "" {
		t.Errorf("without ENIs: %v", got)
	}
}

// A bus answers every call and tells what was called.
func bus(t *testing.T, root string, answer byte) (calls <-chan string) {
	t.Helper()
	path := filepath.Join(root, "run/dbus/system_bus_socket")
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	listener, err := net.Listen("unix", path)
	must(t, err)
	called, done := make(chan string, 20), make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serveBus(conn, answer, called)
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	return called
}

func serveBus(conn net.Conn, answer byte, called chan<- string) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "\x00AUTH EXTERNAL ") {
		return
	}
	_, _ = io.WriteString(conn, "OK 0123\r\n")
	if line, err := r.ReadString('\n'); err != nil || line != "BEGIN\r\n" {
		return
	}
	for {
		head := make([]byte, dbusHeader)
		if _, err := io.ReadFull(r, head); err != nil {
			return
		}
		le := binary.LittleEndian
		rest := make([]byte, (le.Uint32(head[12:])+7)&^7+le.Uint32(head[4:]))
		if _, err := io.ReadFull(r, rest); err != nil {
			return
		}
		signal := []byte{'l', 4, 0, 1, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0}
		_, _ = conn.Write(signal)
		kind := answer
		if strings.Contains(string(rest), "Hello") {
			kind = dbusReturn
		} else {
			called <- string(rest)
		}
		fields := append([]byte{fieldError, 1, 's', 0, 3, 0, 0, 0, 'b', 'a', 'd', 0, 0, 0, 0, 0, fieldReply, 1, 'u', 0}, head[8:12]...)
		reply := le.AppendUint32([]byte{'l', kind, 0, 1, 0, 0, 0, 0, 7, 0, 0, 0}, uint32(len(fields)))
		_, _ = conn.Write(append(reply, fields...))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func nextCall(t *testing.T, calls <-chan string) string {
	t.Helper()
	select {
	case c := <-calls:
		return c
	case <-time.After(time.Minute):
		t.Fatal("nobody was told")
		return ""
	}
}

// Files come with the ENIs, are left alone while they are right, and go with the ENIs; each change is told once.
func TestDropInsFollowTheENIs(t *testing.T) {
	root := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(root, "run/systemd/netif"), 0o755))
	must(t, os.MkdirAll(filepath.Join(root, "run/NetworkManager/conf.d"), 0o755))
	must(t, os.MkdirAll(filepath.Join(root, networkDir), 0o755))
	theirs := filepath.Join(root, networkDir, "10-netplan-eth0.network")
	must(t, os.WriteFile(theirs, []byte("[Match]\n"), 0o644))
	calls := bus(t, root, dbusReturn)
	h := &Host{unmanaged: root, log: slog.New(slog.DiscardHandler)}
	one := []string{"00:16:3e:00:00:02"}
	must(t, h.unmanage(one, time.Now()))
	first, second := nextCall(t, calls), nextCall(t, calls)
	if !strings.Contains(first, "org.freedesktop.network1.Manager") || !strings.Contains(second, "org.freedesktop.NetworkManager") || !strings.HasSuffix(second, "\x01\x00\x00\x00") {
		t.Errorf("told %q, %q", first, second)
	}
	have, err := ownDropIns(root)
	if diff := cmp.Diff(DropIns(one, Managers{true, true}), have); diff != "" || err != nil {
		t.Error(diff, err)
	}
	must(t, h.unmanage(one, time.Now()))
	select {
	case c := <-calls:
		t.Errorf("told without a change: %q", c)
	default:
	}
	must(t, h.unmanage(nil, time.Now()))
	if have, err := ownDropIns(root); err != nil || len(have) != 1 || have[networkdConf] == "" {
		t.Errorf("left: %v, %v", have, err)
	}
	must(t, RemoveDropIns(root))
	if have, err := ownDropIns(root); err != nil || len(have) != 0 {
		t.Errorf("left: %v, %v", have, err)
	}
	if _, err := os.Stat(theirs); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(filepath.Join(root, networkDir))
	if err != nil || slices.ContainsFunc(entries, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), ".") }) {
		t.Errorf("temporary files: %v, %v", entries, err)
	}
}

// A node without a manager gets no files, and a bus that refuses or is not there is an error.
func TestDropInsWithoutManagers(t *testing.T) {
	root := t.TempDir()
	h := &Host{unmanaged: root}
	must(t, h.unmanage([]string{"00:16:3e:00:00:02"}, time.Now()))
	if entries, err := os.ReadDir(root); err != nil || len(entries) != 0 {
		t.Errorf("made %v, %v", entries, err)
	}
	must(t, os.MkdirAll(filepath.Join(root, "run/systemd/netif"), 0o755))
	if err := h.unmanage(nil, time.Now()); err == nil {
		t.Error("no error without a bus")
	}
	refusing := t.TempDir()
	bus(t, refusing, dbusError)
	err := dbusCall(filepath.Join(refusing, "run/dbus/system_bus_socket"), reloadNetworkd, time.Second)
	if err == nil || !strings.Contains(err.Error(), "the bus says bad") {
		t.Errorf("error is %v", err)
	}
}

// A manager that could not be told is told again, after the interval, and once.
func TestDropInsAreToldLater(t *testing.T) {
	root, now := t.TempDir(), time.Now()
	must(t, os.MkdirAll(filepath.Join(root, "run/systemd/netif"), 0o755))
	h := &Host{unmanaged: root, interval: 10 * time.Second}
	macs := []string{"00:16:3e:00:00:02"}
	if err := h.unmanage(macs, now); err == nil {
		t.Error("no error without a bus")
	}
	calls := bus(t, root, dbusReturn)
	for _, after := range []time.Duration{5 * time.Second, 11 * time.Second, 22 * time.Second} {
		must(t, h.unmanage(macs, now.Add(after)))
		told := len(calls) == 1 // the call was answered
		if due := after == 11*time.Second; told != due {
			t.Errorf("after %v: told is %t", after, told)
		}
		if told {
			nextCall(t, calls)
		}
	}
}

func FuzzDBusFields(f *testing.F) {
	f.Add([]byte{fieldError, 1, 's', 0, 3, 0, 0, 0, 'b', 'a', 'd', 0, 0, 0, 0, 0, fieldReply, 1, 'u', 0, 1, 0, 0, 0})
	f.Add([]byte{8, 1, 'g', 0, 255, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, name := dbusFields(b, binary.LittleEndian); len(name) > len(b) {
			t.Error("a name longer than its message")
		}
	})
}
