package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/spf13/cobra"
)

// A zoneCommand holds the flags of "nearpath zone".
type zoneCommand struct{ socket, output string }

func newZone() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "zone",
		Short: "Ask and steer the syncer of PrivateZone",
		Long: `Zone asks the running "nearpath externaldns" about the zones it publishes names in, and why a name is as it is. Only
adopt --apply, hold and release change anything.`,
	}
	z := &zoneCommand{}
	cmd.PersistentFlags().StringVar(&z.socket, "socket", publisherSocket, "the syncer's socket")
	cmd.PersistentFlags().StringVarP(&z.output, "output", "o", "table", "table or json")
	cmd.AddCommand(
		&cobra.Command{
			Use: "status", Short: "Show the zones in scope and what keeps names from being published",
			RunE: z.get(zoneStatusPath, printed(printZoneStatus)),
		},
		&cobra.Command{
			Use: "plan", Short: "Show what would be written now",
			RunE: z.get(zonePlanPath, printed(printPlan)),
		},
		&cobra.Command{
			Use: "records", Short: "Show the records of the zones in scope and whose they are",
			RunE: z.get(zoneRecordsPath, table("NAME\tTTL\tTYPE\tVALUE\tOWNER\tBY\tOBJECT\tZONE", recordRow)),
		},
		&cobra.Command{
			Use: "audit", Short: "List the zones anew and compare them with what is wanted; the exit status is 1 if something is not as it should be",
			RunE: z.get(zoneAuditPath, printed(printAudit)),
		},
		&cobra.Command{
			Use: "explain NAME", Short: "Explain why a name is as it is", Args: oneArgument("name"),
			RunE: func(cmd *cobra.Command, args []string) error {
				return z.post(cmd, zoneExplainPath, explainRequest{Name: args[0]}, printed(printExplanation))
			},
		},
		z.newAdopt(),
		z.newHold(),
		&cobra.Command{
			Use: "release ZONE", Short: "Let the deletes pass that are held in a zone, named by its ID or its name", Args: oneArgument("zone"),
			RunE: func(cmd *cobra.Command, args []string) error {
				return z.post(cmd, zoneReleasePath, holdRequest{Zone: args[0]}, printed(printZoneStatus))
			},
		},
	)
	return cmd
}

func (z *zoneCommand) newHold() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "hold ZONE", Short: "Hold all deletes in a zone, named by its ID or its name, until they are released", Args: oneArgument("zone"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return z.post(cmd, zoneHoldPath, holdRequest{Zone: args[0], Reason: reason}, printed(printZoneStatus))
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "held by hand", "what status and readiness say about it")
	return cmd
}

func (z *zoneCommand) newAdopt() *cobra.Command {
	var r adoptRequest
	cmd := &cobra.Command{
		Use:   "adopt",
		Short: "Make records of others ours: show the plan, or write it with --apply",
		Long: `Adopt writes our remark on records that something else made, so that they are kept, changed and deleted as ours. Records
that nothing wants are left, since they would be deleted next. Stop the other program first.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return z.post(cmd, zoneAdoptPath, r, printed(printAdoption))
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.ExternalDNS, "external-dns", "", "take over what the external-dns of this owner ID (--txt-owner-id) has")
	f.StringVar(&r.TXTPrefix, "txt-prefix", "", "the --txt-prefix of that external-dns")
	f.StringVar(&r.TXTSuffix, "txt-suffix", "", "the --txt-suffix of that external-dns")
	f.BoolVar(&r.RemoveTXT, "remove-txt", false, "delete the TXT records of that external-dns where all it owned is ours")
	f.BoolVar(&r.CloudProvider, "cloud-provider", false, "take over what the cloud provider's controller wrote; it does not say for which cluster")
	f.StringVar(&r.Owner, "owner", "", "take over the records of another ownerID")
	f.StringSliceVar(&r.Names, "name", nil, "take over whatever there is at this name; repeatable")
	f.BoolVar(&r.Unwanted, "unwanted", false, "take over records too that nothing wants: they are deleted next")
	f.BoolVar(&r.Apply, "apply", false, "write the plan instead of showing it")
	return cmd
}

// A printer prints an answer as a table. Its error is about what it printed.
type printer func(w io.Writer, body json.RawMessage) error

// printed is a printer of a T.
func printed[T any](print func(io.Writer, T) error) printer {
	return func(w io.Writer, body json.RawMessage) error {
		var v T
		if err := json.Unmarshal(body, &v); err != nil {
			return err
		}
		return print(w, v)
	}
}

func (z *zoneCommand) get(path string, print printer) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		return z.show(cmd, print, func(ctx context.Context, c *agentapi.Client, out any) error { return c.Get(ctx, path, out) })
	}
}

func (z *zoneCommand) post(cmd *cobra.Command, path string, request any, print printer) error {
	return z.show(cmd, print, func(ctx context.Context, c *agentapi.Client, out any) error { return c.Post(ctx, path, request, out) })
}

// show asks, and prints the answer. As JSON too, it ends with the error that the table has.
func (z *zoneCommand) show(cmd *cobra.Command, print printer, ask func(context.Context, *agentapi.Client, any) error) error {
	if z.output != "table" && z.output != "json" {
		return usageError{fmt.Errorf("--output %q: use table or json", z.output)}
	}
	var body json.RawMessage
	if err := ask(cmd.Context(), agentapi.NewClient(z.socket), &body); err != nil {
		if errors.Is(err, agentapi.ErrUnavailable) {
			return usageError{fmt.Errorf("--socket %q: nothing listens there: ask where \"nearpath externaldns\" runs, with the socket of its configuration", z.socket)}
		}
		return err
	}
	if z.output == "table" {
		return print(cmd.OutOrStdout(), body)
	}
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n", body); err != nil {
		return err
	}
	return print(io.Discard, body)
}
