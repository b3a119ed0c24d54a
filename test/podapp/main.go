// Podapp is the program that containers run in the demo and in cluster tests: one static binary, standard library
// only.
//
//	podapp serve ADDR [--upstream URL] [--grace D] [--quiet D]   answer HTTP requests with JSON
//	podapp udp-echo ADDR                                         answer datagrams with "<pod> <what came>"
//	podapp get URL [--timeout D]                                 print the body of one answer
//	podapp udp-get HOST:PORT TEXT [--timeout D]                  print the answer to one datagram
//	podapp load URL --rate N [--for D] [--timeout D]             make N requests a second, each on a new connection
//	podapp lookup NAME [--timeout D]                             print the addresses of a name, in order
//	podapp names [--rounds N] NAME...                            print what each name leads to
//	podapp latency --direct HOST:PORT --service HOST:PORT --name NAME --rounds N
//	podapp probe ADDR                                            answer by TCP and UDP with who asked, and ask as told on stdin
//	podapp sleep                                                 wait for SIGTERM
//
// POD_NAME (default: the host name) and NODE_NAME say where it runs. It ends with 0 when all went well, 1 when
// something failed, and 2 when it was called wrongly.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

var errUsage = errors.New("usage: podapp serve|udp-echo|get|udp-get|load|lookup|names|latency|probe|sleep, with arguments")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err := run(ctx, os.Stdout, os.Args[1:])
	switch {
	case err == nil:
	case errors.Is(err, errUsage), errors.Is(err, flag.ErrHelp):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// run runs the subcommand that args begins with. A SIGTERM ends ctx.
func run(ctx context.Context, out io.Writer, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	verb, args := args[0], args[1:]
	switch verb {
	case "serve":
		return serveCommand(ctx, args)
	case "udp-echo":
		return udpEchoCommand(ctx, args)
	case "get":
		return getCommand(ctx, out, args)
	case "udp-get":
		return udpGetCommand(ctx, out, args)
	case "load":
		return loadCommand(ctx, out, args)
	case "lookup":
		return lookupCommand(ctx, out, args)
	case "names":
		return namesCommand(ctx, out, args)
	case "latency":
		return latencyCommand(ctx, out, args)
	case "probe":
		return probeCommand(ctx, os.Stdin, out, args)
	case "sleep":
		<-ctx.Done()
		return nil
	default:
		return fmt.Errorf("%q: %w", verb, errUsage)
	}
}

// parse parses flags that may stand before, between and after exactly want other arguments, and returns those.
func parse(flags *flag.FlagSet, args []string, want int) ([]string, error) {
	flags.SetOutput(io.Discard)
	var rest []string
	for {
		if err := flags.Parse(args); err != nil {
			return nil, fmt.Errorf("%w: %w", errUsage, err)
		}
		if flags.NArg() == 0 {
			break
		}
		rest = append(rest, flags.Arg(0))
		args = flags.Args()[1:]
	}
	if len(rest) != want {
		return nil, fmt.Errorf("%s takes %d arguments, got %d: %w", flags.Name(), want, len(rest), errUsage)
	}
	return rest, nil
}

// A place is where this program runs.
type place struct {
	Pod  string `json:"pod"`
	Node string `json:"node,omitempty"`
}

func here() place {
	p := place{Pod: os.Getenv("POD_NAME"), Node: os.Getenv("NODE_NAME")}
	if p.Pod == "" {
		p.Pod, _ = os.Hostname()
	}
	return p
}
