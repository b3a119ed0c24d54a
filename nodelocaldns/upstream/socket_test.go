package upstream

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// localPort is 0 for a socket without one.
func localPort(t *testing.T, socket *net.UDPConn) (port int) {
	t.Helper()
	if err := onSocket(socket, func(fd int) error {
		name, err := unix.Getsockname(fd)
		if err != nil {
			return err
		}
		port = name.(*unix.SockaddrInet4).Port
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return port
}

// A socket that waits has no port, and another one for each question.
func TestSocketChangesPorts(t *testing.T) {
	t.Parallel()
	s := serve(t, ok)
	conn, err := dial(t.Context(), "udp", netip.Addr{}, s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	socket := conn.(*net.UDPConn)
	ports := map[int]bool{}
	for range 100 {
		ports[localPort(t, socket)] = true
		if err := disconnect(socket); err != nil {
			t.Fatal(err)
		}
		if port := localPort(t, socket); port != 0 {
			t.Fatalf("a socket that waits has port %d", port)
		}
		if err := reconnect(socket, s.addr); err != nil {
			t.Fatal(err)
		}
	}
	if len(ports) < 90 || ports[0] {
		t.Errorf("100 questions have %d ports", len(ports))
	}
}

// Sockets are used again, and end with their endpoint.
func TestSocketsWait(t *testing.T) {
	t.Parallel()
	s := serve(t, ok)
	u := open(t, Config{Targets: []Target{s.target(UDPFirst)}})
	m := (*u.members.Load())[0]
	ask := func() net.Conn {
		q, err := newQuery(question("www.example."))
		if err != nil {
			t.Fatal(err)
		}
		b := m.tryAlone(q, time.Minute)
		if !b.isGood() {
			t.Fatal(b.err)
		}
		return b.asks.socket
	}
	waits, late := ask(), ask()
	if late != waits {
		t.Error("the socket of the first question is not used for the second")
	}
	late, err := dial(t.Context(), "udp", netip.Addr{}, s.addr)
	if err != nil {
		t.Fatal(err)
	}
	u.Close()
	m.release(late)
	for what, socket := range map[string]net.Conn{"one that waited": waits, "one of the last question": late} {
		if err := socket.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s is open after its endpoint has ended: %v", what, err)
		}
	}
}
