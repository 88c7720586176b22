output "machines" {
  description = "The names of the machines."
  value       = [for machine in terraform_data.machine : machine.output.name]
}

output "database_url" {
  description = "Where the database is, without its password."
  value       = "postgres://${nonsensitive(terraform_data.database.output.name)}.${var.region}.example.com/orders"
}
