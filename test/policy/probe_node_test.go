//go:build node

package policy

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/nearpath/nearpath/test/netlab"
)

// roleServer is the role of a copy of this program that answers and asks.
const roleServer = "server"

// ports are those at which everybody answers, by TCP and by UDP.
var ports = []uint16{80, 81}

// A question is whether somebody is heard: on a new connection, or by one datagram.
type question struct {
	Network, To string // tcp, udp or icmp
	Timeout     time.Duration
	Size        int  // of a datagram, 0: a byte
	Options     bool // the datagram has options, or extension headers
	// Held asks on the connection that the question was asked on before.
	Held bool
}

// probe answers, and asks what it reads: a line with questions, for a line with their outcomes, until in ends.
func probe(in io.Reader, out io.Writer) error {
	for _, port := range ports {
		if err := answer(port); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintln(out, "true"); err != nil {
		return err
	}
	held := map[question]net.Conn{}
	var id uint16
	for lines := json.NewDecoder(bufio.NewReader(in)); ; {
		var questions []question
		if err := lines.Decode(&questions); err != nil {
			return nil //nolint:nilerr // it ends
		}
		heard := make([]bool, len(questions))
		var all sync.WaitGroup
		for i, q := range questions {
			id++
			switch {
			case q.Held:
				heard[i] = q.askAgain(held)
			default:
				all.Go(func() { heard[i] = q.ask(id) })
			}
		}
		all.Wait()
		if err := json.NewEncoder(out).Encode(heard); err != nil {
			return err
		}
	}
}

// answer sends back what comes at a port.
func answer(port uint16) error {
	at := fmt.Sprintf("[::]:%d", port)
	listener, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	conn, err := net.ListenPacket("udp", at)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // of that connection
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	go func() {
		datagram := make([]byte, 64)
		for {
			n, from, err := conn.ReadFrom(datagram)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = conn.WriteTo(datagram[:n], from)
			}
		}
	}()
	return nil
}

// ask asks once; id is the number of an echo request, which no other of this process had.
func (q question) ask(id uint16) bool {
	deadline := time.Now().Add(q.Timeout)
	if q.Network == "icmp" {
		return echo(netip.MustParseAddrPort(q.To).Addr(), id, deadline)
	}
	conn, err := net.DialTimeout(q.Network, q.To, q.Timeout)
	if err != nil {
		return false
	}
	defer conn.Close()
	if q.Options && setOptions(conn.(*net.UDPConn)) != nil {
		return false
	}
	return exchange(conn, q.Size, deadline)
}

// exchange sends some bytes and waits for one.
func exchange(conn net.Conn, size int, deadline time.Time) bool {
	if conn.SetDeadline(deadline) != nil {
		return false
	}
	if _, err := conn.Write(make([]byte, max(size, 1))); err != nil {
		return false
	}
	_, err := conn.Read(make([]byte, 1))
	return err == nil
}

func (q question) askAgain(held map[question]net.Conn) bool {
	conn, deadline := held[q], time.Now().Add(q.Timeout)
	if conn == nil {
		var err error
		if conn, err = net.DialTimeout(q.Network, q.To, q.Timeout); err != nil {
			return false
		}
		held[q] = conn
	}
	return exchange(conn, 0, deadline)
}

// A prober is a running probe.
type prober struct {
	mu  sync.Mutex // guards the fields below
	in  *os.File
	out *json.Decoder
}

// startProber runs a copy of this program by cmd and returns when it answers.
func startProber(t *testing.T, lab *netlab.Lab, cmd *exec.Cmd, role string) *prober {
	t.Helper()
	cmd.Env = append(os.Environ(), roleEnv+"="+role, "GOMAXPROCS=2", "GOMEMLIMIT=24MiB")
	cmd.Stderr = os.Stderr
	stdin, in, err := os.Pipe()
	ok(t, err)
	out, stdout, err := os.Pipe()
	ok(t, err)
	t.Cleanup(func() {
		in.Close()
		out.Close()
	})
	cmd.Stdin, cmd.Stdout = stdin, stdout
	_, err = lab.Start(cmd)
	ok(t, err)
	stdin.Close()
	stdout.Close()
	p := &prober{in: in, out: json.NewDecoder(out)}
	var ready bool
	if err := p.out.Decode(&ready); err != nil {
		t.Fatalf("start a probe: %v", err)
	}
	return p
}

// ask asks all at once.
func (p *prober) ask(questions []question) (heard []bool, err error) {
	if len(questions) == 0 {
		return nil, nil
	}
	return heard, p.exchange(questions, &heard)
}

// exchange writes a line and reads one.
func (p *prober) exchange(in, out any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := json.NewEncoder(p.in).Encode(in); err != nil {
		return err
	}
	return p.out.Decode(out)
}
