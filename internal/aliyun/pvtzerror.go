package aliyun

import (
	"errors"
	"fmt"
	"slices"
)

// Error classes of PrivateZone.
var (
	// ErrRecordConflict: the record exists already, or a CNAME record and others are at one name (Record.Invalid.Conflict).
	ErrRecordConflict = errors.New("conflicting record in the zone")
	// ErrZoneGone: there is no such zone, or it belongs to somebody else. It says nothing about the records that are wanted.
	ErrZoneGone = errors.New("zone is gone")
	// ErrInvalidRecord: the cloud will never accept the record as it is. Others are not concerned.
	ErrInvalidRecord = errors.New("record is refused by the cloud")
)

// codeRecordNotExists is the answer for a record ID that is not, or not any more.
const codeRecordNotExists = "Record.NotExists"

// wholeAPI are codes that no class has and that concern all requests, whatever they say.
var wholeAPI = []string{"", "InvalidAction.NotFound", "InvalidVersion", "UnsupportedHTTPMethod"}

// perRecord makes an answer of no class an ErrInvalidRecord: a refusal that no rule knows concerns the one record, not the
// zone. Not all codes for invalid records are documented.
func perRecord(err error) error {
	api, ok := errors.AsType[*APIError](err)
	if !ok || classOf(api.Code) != nil || api.Code == codeRecordNotExists || api.HTTPStatus < 400 || api.HTTPStatus > 499 ||
		slices.Contains(wholeAPI, api.Code) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrInvalidRecord, err)
}
