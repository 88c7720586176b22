# A stack that needs no provider download and no cloud: terraform_data is built into Terraform and OpenTofu.

terraform {
  required_version = ">= 1.4"
}

variable "region" {
  description = "Where the pretended machines stand."
  type        = string
  default     = "eu-central"
}

variable "db_password" {
  description = "Given to the stack as the secret TF_VAR_db_password."
  type        = string
  sensitive   = true
}

resource "terraform_data" "network" {
  input = { name = "main", region = var.region }
}

resource "terraform_data" "machine" {
  count = 3
  input = { name = "machine-${count.index}", network = terraform_data.network.output.name }
}

# The password is part of what is made, so it is also part of the state: sealed before it leaves the worker's host.
resource "terraform_data" "database" {
  input      = { name = "orders", password = var.db_password }
  depends_on = [terraform_data.network]
}
