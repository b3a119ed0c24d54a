//go:build node

package bpf

import (
	"io"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestK14OtherCalls reaches Services by the calls that are neither connect() nor sendto() but do what these do.
func TestK14OtherCalls(t *testing.T) {
	d := start(t, node(t))
	back := readingBackend(t)
	web := frontend("10.96.0.80:80", tcp)
	publish(t, d, 1, web, Block{Cluster: []netip.AddrPort{back.addr}})
	t.Run("TCP fast open", func(t *testing.T) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		to := &unix.SockaddrInet4{Addr: web.Addr.Addr().As4(), Port: int(web.Addr.Port())}
		if err := unix.Sendto(fd, []byte("fast open"), unix.MSG_FASTOPEN, to); err != nil {
			t.Fatal(err)
		}
		if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
			t.Fatal(err)
		}
		back.wantText(t, "fast open")
	})
	t.Run("splice", func(t *testing.T) {
		c, err := net.Dial("tcp", web.Addr.String())
		if err != nil {
			t.Fatal(err)
		}
		spliceInto(t, c.(*net.TCPConn), "splice")
		c.Close()
		back.wantText(t, "splice")
	})
	t.Run("sendmmsg and recvmmsg", func(t *testing.T) {
		var vips []netip.AddrPort
		for i, name := range []string{"a", "b"} {
			f := frontend([]string{"10.96.0.81:53", "10.96.0.82:53"}[i], udp)
			publish(t, d, uint32(2+i), f, Block{Cluster: []netip.AddrPort{echo(t, "127.0.0.1:0", name)}})
			vips = append(vips, f.Addr)
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		limit := unix.Timeval{Sec: 2}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
			t.Fatal(err)
		}
		out, in := newBatch(vips), newBatch(make([]netip.AddrPort, len(vips)))
		out.call(t, unix.SYS_SENDMMSG, fd, 0)
		in.call(t, unix.SYS_RECVMMSG, fd, 0)
		got := map[netip.AddrPort]string{}
		for i := range in.headers {
			got[in.from(i)] = string(in.text[i][:1])
		}
		if got[vips[0]] != "a" || got[vips[1]] != "b" {
			t.Errorf("answers %v, want a from %s and b from %s", got, vips[0], vips[1])
		}
	})
}

// A readsAll accepts connections and tells what came on each.
type readsAll struct {
	addr netip.AddrPort
	text chan string
}

func readingBackend(t *testing.T) *readsAll {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	r := &readsAll{addr: netip.MustParseAddrPort(l.Addr().String()), text: make(chan string, 16)}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			text, _ := io.ReadAll(c)
			c.Close()
			r.text <- string(text)
		}
	}()
	return r
}

func (r *readsAll) wantText(t *testing.T, want string) {
	t.Helper()
	if got := <-r.text; got != want {
		t.Errorf("the backend got %q, want %q", got, want)
	}
}

// spliceInto moves text from a pipe to a connection within the kernel.
func spliceInto(t *testing.T, c *net.TCPConn, text string) {
	t.Helper()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	if _, err := unix.Write(pipe[1], []byte(text)); err != nil {
		t.Fatal(err)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int64
	var failed error
	if err := raw.Control(func(fd uintptr) { n, failed = unix.Splice(pipe[0], nil, int(fd), nil, len(text), 0) }); err != nil {
		t.Fatal(err)
	}
	if failed != nil || n != int64(len(text)) {
		t.Fatalf("spliced %d bytes: %v", n, failed)
	}
}

// A messageHeader is struct mmsghdr (sendmmsg(2)).
type messageHeader struct {
	unix.Msghdr
	n uint32
	_ [4]byte
}

// A batch is several messages of one byte each for one call, or room for them.
type batch struct {
	headers []messageHeader
	names   []unix.RawSockaddrInet4
	text    [][16]byte
	vectors []unix.Iovec
}

func newBatch(to []netip.AddrPort) *batch {
	n := len(to)
	b := &batch{make([]messageHeader, n), make([]unix.RawSockaddrInet4, n), make([][16]byte, n), make([]unix.Iovec, n)}
	for i, a := range to {
		b.names[i] = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: swap16(a.Port())}
		if a.IsValid() {
			b.names[i].Addr = a.Addr().As4()
		}
		b.vectors[i].Base = &b.text[i][0]
		b.vectors[i].SetLen(len(b.text[i]))
		h := &b.headers[i]
		h.Name, h.Namelen, h.Iov = (*byte)(unsafe.Pointer(&b.names[i])), unix.SizeofSockaddrInet4, &b.vectors[i]
		h.SetIovlen(1)
	}
	return b
}

// call sends or receives all messages of the batch by one system call.
func (b *batch) call(t *testing.T, number uintptr, fd, flags int) {
	t.Helper()
	n, _, errno := unix.Syscall6(number, uintptr(fd), uintptr(unsafe.Pointer(&b.headers[0])), uintptr(len(b.headers)), uintptr(flags), 0, 0)
	runtime.KeepAlive(b)
	if errno != 0 || int(n) != len(b.headers) {
		t.Fatalf("system call %d: %d messages of %d: %v", number, n, len(b.headers), errno)
	}
}

func (b *batch) from(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4(b.names[i].Addr), swap16(b.names[i].Port))
}
