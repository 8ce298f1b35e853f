// AWS SDK for Go v2 behind the protocol of all clients here (see ../python/protocol.py).
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

type answer struct {
	OK          bool   `json:"ok"`
	ARN         string `json:"arn,omitempty"`
	AccessKeyID string `json:"access_key_id,omitempty"`
	Error       string `json:"error,omitempty"`
}

func identity(ctx context.Context, settings aws.Config) (answer, error) {
	identity, err := sts.NewFromConfig(settings).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return answer{}, err
	}
	credentials, err := settings.Credentials.Retrieve(ctx)
	if err != nil {
		return answer{}, err
	}
	return answer{OK: true, ARN: *identity.Arn, AccessKeyID: credentials.AccessKeyID}, nil
}

func main() {
	ctx := context.Background()
	lines := bufio.NewScanner(os.Stdin)
	answers := json.NewEncoder(os.Stdout)
	var settings aws.Config
	for lines.Scan() {
		var err error
		if lines.Text() == "fetch" {
			settings, err = config.LoadDefaultConfig(ctx)
		}
		var result answer
		if err == nil {
			result, err = identity(ctx, settings)
		}
		if err != nil {
			result = answer{Error: err.Error()}
		}
		if answers.Encode(result) != nil {
			os.Exit(1)
		}
	}
}
